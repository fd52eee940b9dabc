"""Weights used where they lie in the file."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from gemcore.errors import BundleError, GemError
from gemcore.formats.safetensors_writer import write_safetensors
from gemcore.runtime.mapped_weights import map_weights
from gemcore.runtime.tvm_runtime import as_tensor

ARRAYS = {
    "packed": np.arange(640, dtype=np.uint8).reshape(1, 2, 320),
    "halves": np.linspace(-1, 1, 64, dtype=np.float16).reshape(2, 32),
    "gain": np.linspace(0, 1, 48, dtype=np.float32),
    "odd": np.arange(7, dtype=np.float16),
    "number": np.arange(16, dtype=np.int32),
}


def test_what_was_written_is_mapped_in_the_order_asked_for(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, ARRAYS)
    names = ["odd", "packed", "gain", "number", "halves", "gain"]
    mapped = map_weights(path, names)
    for name, array in zip(names, mapped, strict=True):
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])
        if ARRAYS[name].nbytes % 64 == 0:
            assert array.ctypes.data % 64 == 0
            as_tensor(array)


def test_a_write_does_not_reach_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, ARRAYS)
    before = path.read_bytes()
    (gain,) = map_weights(path, ["gain"])
    gain[...] = 5
    assert path.read_bytes() == before
    np.testing.assert_array_equal(map_weights(path, ["gain"])[0], ARRAYS["gain"])


def test_files_of_the_safetensors_library_are_read_too(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(ARRAYS, path)
    for array, expected in zip(map_weights(path, list(ARRAYS)), ARRAYS.values(), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("name", ["missing", "wide"])
def test_a_weight_that_is_not_there_is_named(tmp_path, name):
    path = tmp_path / "weights.safetensors"
    save_file({"wide": np.zeros(3)}, path)
    with pytest.raises(BundleError, match=f"holds no weight '{name}' that this GEM can read"):
        map_weights(path, [name])


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{"])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(GemError, match=str(path)) as error:
        map_weights(path, ["gain"])
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(GemError, match="missing"):
        map_weights(tmp_path / "missing", ["gain"])
