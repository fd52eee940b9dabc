"""Files that GEM writes, read by the `safetensors` library."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from gemcore.formats.safetensors_header import read_safetensors_header
from gemcore.formats.safetensors_writer import write_safetensors

ARRAYS = {
    "packed": np.arange(2 * 3 * 320, dtype=np.uint8).reshape(2, 3, 320),
    "halves": np.linspace(-1, 1, 64, dtype=np.float16).reshape(2, 32),
    "gain": np.linspace(0, 1, 48, dtype=np.float32),
    "odd": np.arange(7, dtype=np.int8),
    "another odd": np.arange(3, dtype=np.int32),
    "transposed": np.arange(64, dtype=np.float32).reshape(4, 16).T,
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float32(3).reshape(()),
}


def test_the_library_reads_what_was_written(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, ARRAYS)
    loaded = load_file(path)
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_whole_cache_lines_are_aligned_and_the_rest_comes_last(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, ARRAYS)
    stored = np.fromfile(path, np.uint8)
    tensors = read_safetensors_header(stored, path)
    aligned = [tensor for tensor in tensors if tensor.size % 64 == 0]
    assert {"packed", "halves", "gain", "transposed"} <= {tensor.name for tensor in aligned}
    assert all(tensor.offset % 64 == 0 for tensor in aligned)
    assert {tensor.name for tensor in tensors[len(aligned) :]} == {"odd", "another odd", "scalar"}
    header_bytes = int.from_bytes(stored[:8].tobytes(), "little")
    assert json.loads(stored[8 : 8 + header_bytes].tobytes()).keys() == ARRAYS.keys()
    assert (8 + header_bytes) % 64 == 0


def test_tensors_lie_in_their_order(tmp_path):
    for arrays in (ARRAYS, dict(reversed(ARRAYS.items()))):
        path = tmp_path / "weights.safetensors"
        write_safetensors(path, arrays)
        stored = np.fromfile(path, np.uint8)
        names = [tensor.name for tensor in read_safetensors_header(stored, path)]
        whole = [name for name, array in arrays.items() if array.nbytes % 64 == 0]
        assert names[: len(whole)] == whole


def test_a_type_that_compiled_code_never_reads_is_no_tensor(tmp_path):
    with pytest.raises(KeyError, match="float64"):
        write_safetensors(tmp_path / "weights.safetensors", {"x": np.zeros(3)})
    assert not (tmp_path / "weights.safetensors").exists()
