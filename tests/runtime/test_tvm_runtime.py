"""TVM's runtime: arrays at the right addresses, libraries that cannot be loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gemcore.errors import GemError, UsageError
from gemcore.runtime.tvm_runtime import (
    ALIGNMENT,
    aligned,
    aligned_zeros,
    as_array,
    as_tensor,
    load_function,
    usable_cores,
    use_threads,
)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int32])
@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (64, 2), (300, 301)])
def test_zeros_are_aligned(shape, dtype):
    array = aligned_zeros(shape, dtype)
    assert array.ctypes.data % ALIGNMENT == 0
    assert (array.shape, array.dtype) == (shape, dtype)
    assert not array.any()
    array[...] = 1


def test_an_aligned_array_is_used_as_it_is():
    array = aligned_zeros((4, 4), np.float32)
    assert aligned(array) is array


def test_other_arrays_are_copied_to_an_aligned_place():
    base = aligned_zeros((5, 5), np.float32)
    base[...] = np.arange(25).reshape(5, 5)
    for other in (base.ravel()[1:], base.T, base[:, 1:3], base.ravel()[::2]):
        copy = aligned(other)
        assert copy.ctypes.data % ALIGNMENT == 0
        assert copy.flags.c_contiguous
        assert not np.shares_memory(copy, base)
        np.testing.assert_array_equal(copy, other)


def test_a_tensor_shares_the_memory_of_its_array():
    array = aligned_zeros((3, 5), np.float16)
    tensor = as_tensor(array)
    array[1, 2] = 7
    again = as_array(tensor)
    assert again[1, 2] == 7
    assert np.shares_memory(again, array)


def test_a_missing_library_is_one_sentence(tmp_path):
    missing = tmp_path / "missing.so"
    with pytest.raises(
        GemError, match=f"^the compiled model '{missing}' cannot be loaded"
    ) as error:
        load_function(missing, "forward", pooled=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + 100 * b"\0"])
def test_a_garbage_library_is_one_sentence(tmp_path, content):
    library = tmp_path / "model.so"
    library.write_bytes(content)
    with pytest.raises(
        GemError, match=f"^the compiled model '{library}' cannot be loaded"
    ) as error:
        load_function(library, "forward", pooled=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [0, -1, 10**6])
def test_a_number_of_threads_that_makes_no_sense_is_refused(tmp_path, count):
    cores = usable_cores()
    with pytest.raises(UsageError, match=f"^threads must be from 1 to {cores}, .* not {count}$"):
        use_threads(tmp_path / "never loaded.so", count)


def test_loading_a_model_imports_no_python_of_tvm(tmp_path):
    code = f"""
import sys
from pathlib import Path
from gemcore.errors import GemError
from gemcore.runtime.tvm_runtime import load_function
try:
    load_function(Path({str(tmp_path / "missing.so")!r}), "forward", pooled=True)
except GemError as error:
    print(error)
print([name for name in ("torch", "tvm", "tvm_ffi") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    sentence, imported = done.stdout.splitlines()
    assert "missing.so: cannot open shared object file" in sentence
    assert imported == "[]"


def test_the_package_for_tvm_comes_without_torch():
    code = (
        "import sys; from gemcore.runtime.tvm_runtime import ffi; ffi();"
        "print([name for name in ('torch', 'tvm', 'tvm_ffi') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['tvm_ffi']"


def test_large_zeros_are_not_shared_with_a_child():
    # In a process of its own, which has one thread: others would not survive in the child.
    code = """
import os
from gemcore.runtime.tvm_runtime import aligned_zeros
array = aligned_zeros((1 << 20,), "u1")
child = os.fork()
if child == 0:
    array[0] = 1
    os._exit(0)
os.waitpid(child, 0)
print(array[0])
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "0\n"


def test_pages_of_large_zeros_that_are_not_touched_take_no_memory():
    code = """
from pathlib import Path
import numpy as np
from gemcore.runtime.tvm_runtime import aligned_zeros
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
for _ in range(20):
    array = aligned_zeros((16, 1 << 20), np.float16)
    array[3] = 1
print(resident() - before)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 8 << 20


def test_a_library_without_the_function_is_one_sentence(tiny_bundle):
    library = tiny_bundle.folder / "model.so"
    with pytest.raises(GemError, match="cannot be loaded: it has no function 'backward'$"):
        load_function(library, "backward", pooled=False)
