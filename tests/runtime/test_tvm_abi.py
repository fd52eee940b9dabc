"""TVM's C interface, against the package `tvm_ffi`, which calls the same functions."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import GemError
from gemcore.runtime import tvm_abi
from gemcore.runtime.tvm_abi import Function, Tensor, global_function, tensor_on
from gemcore.runtime.tvm_runtime import aligned_zeros, as_array, ffi

LIST, ITEM, SIZE = "ffi.Array", "ffi.ArrayGetItem", "ffi.ArraySize"


@given(st.lists(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_values_come_back_as_they_were(values):
    array = global_function(LIST)(*values)
    assert global_function(SIZE)(array) == len(values)
    item = global_function(ITEM)
    for place, value in enumerate(values):
        assert item(array, place) == value


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 4), (2, 3, 4)])
def test_a_tensor_is_a_view_of_its_array(dtype, shape):
    array = aligned_zeros(shape, dtype)
    array[...] = np.arange(array.size).reshape(shape)
    tensor = tensor_on(array)
    assert tensor.shape == shape
    assert tensor.data_ptr() == array.ctypes.data
    view = np.asarray(tensor)
    assert view.dtype == array.dtype
    assert np.shares_memory(view, array)
    np.testing.assert_array_equal(view, array)
    np.testing.assert_array_equal(as_array(ffi().from_dlpack(array)), array)


def test_memory_lives_as_long_as_something_needs_it_and_no_longer():
    array = aligned_zeros((4, 4), np.float32)
    array[...] = 7
    gone = weakref.ref(array)
    held = global_function(LIST)(tensor_on(array))
    del array
    assert gone() is not None
    view = np.asarray(global_function(ITEM)(held, 0))
    del held
    assert (view == 7).all()
    del view
    assert gone() is None


def test_an_array_that_is_not_contiguous_is_refused_and_stays_usable():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    with pytest.raises(RuntimeError, match="contiguous"):
        tensor_on(array)
    assert array.sum() == 66


def test_objects_of_the_package_are_taken():
    package = ffi()
    theirs = package.Array([1, package.from_dlpack(np.arange(3, dtype=np.int32))])
    assert global_function(SIZE)(theirs) == 2
    assert global_function(ITEM)(theirs, 0) == 1
    np.testing.assert_array_equal(np.asarray(global_function(ITEM)(theirs, 1)), [0, 1, 2])


def test_what_fails_inside_is_told_in_the_words_of_tvm():
    load = global_function("ffi.ModuleLoadFromFile")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="/nowhere/model.so"):
            load("/nowhere/model.so")
    with pytest.raises(RuntimeError, match="IndexError"):
        global_function(ITEM)(global_function(LIST)(1, 2), 5)


def test_an_unknown_function_is_one_sentence():
    with pytest.raises(GemError, match=r"^TVM's runtime has no function gem\.none: ") as error:
        global_function("gem.none")
    assert "\n" not in str(error.value)


def test_a_result_of_another_kind_is_refused():
    array = global_function(LIST)("text")
    with pytest.raises(RuntimeError, match="returned a value of type"):
        global_function(ITEM)(array, 0)


def test_other_threads_run_and_results_are_their_own():
    found, list_, item = [], global_function(LIST), global_function(ITEM)

    def work(number):
        found.extend(item(list_(*range(number, number + 9)), 8) - number for _ in range(200))

    threads = [threading.Thread(target=work, args=[1000 * i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [8] * 800


def test_kinds_of_objects():
    assert isinstance(global_function(LIST), Function)
    assert isinstance(tensor_on(np.zeros(1)), Tensor)


def test_without_tvm_it_says_what_to_install(monkeypatch):
    tvm_abi.runtime_library.cache_clear()
    monkeypatch.setattr(tvm_abi.importlib.util, "find_spec", lambda name: None)
    try:
        with pytest.raises(GemError, match="TVM is not installed: run 'pip install apache-tvm"):
            tvm_abi.runtime_library()
    finally:
        tvm_abi.runtime_library.cache_clear()


def test_a_library_that_cannot_be_loaded_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "broken.so").write_bytes(b"no library")
    tvm_abi.runtime_library.cache_clear()
    monkeypatch.setattr(tvm_abi, "_library", lambda *names: tmp_path / "broken.so")
    try:
        with pytest.raises(GemError, match="^TVM's runtime library cannot be loaded: .*broken.so"):
            tvm_abi.runtime_library()
    finally:
        tvm_abi.runtime_library.cache_clear()


def test_no_python_of_tvm_is_imported():
    code = (
        "import sys; from gemcore.runtime.tvm_abi import global_function;"
        "print(global_function('ffi.ArraySize')(global_function('ffi.Array')(1, None)));"
        "print([name for name in ('torch', 'tvm', 'tvm_ffi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["2", "[]"]
