"""Safetensors headers: the lies that the format's own audit lists, and agreement with its package."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemcore.errors import FormatError
from gemcore.formats.safetensors_header import read_safetensors_header


def read(data):
    return read_safetensors_header(np.frombuffer(data, np.uint8), Path("x.safetensors"))


def file(header, data=b"", length=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD = {
    "three bytes": (b"abc", "claims a header"),
    "huge header": (file({}, length=(1 << 64) - 1), "claims a header of 18446744073709551615"),
    "header over the cap": (file(b"{" * 64, length=100_000_001), "claims a header of 100000001"),
    "header past the end": (file({"a": entry()}, length=5000), "claims a header of 5000"),
    "header of nothing": (file(b"", length=0), "begins with b''"),
    "text": (file(b"hello there, this is text"), "begins with b'hello"),
    "leading space": (file(b' {"a": 1}'), "begins with b' {"),
    "no JSON": (file(b"{oops}"), "not usable JSON"),
    "no UTF-8": (file(b'{"\xff": 1}'), "not usable JSON"),
    "deep JSON": (file(b'{"a":' * 100_000), "nested too deeply"),
    "a key twice": (
        file(
            b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
        ),
        "'a' appears twice",
    ),
    "NaN": (file(b'{"a": NaN}'), "NaN is not a JSON number"),
    "entry is a list": (file({"a": []}), "exactly dtype, shape and data_offsets"),
    "surplus key": (file({"a": {**entry(), "x": 1}}, bytes(8)), "exactly dtype"),
    "unknown type": (file({"a": entry("F12")}, bytes(8)), "unknown type 'F12'"),
    "type is a list": (file({"a": entry(["F32"])}, bytes(8)), "unknown type"),
    "negative size": (file({"a": entry(shape=(-2,))}, bytes(8)), "impossible shape"),
    "fractional size": (file({"a": entry(shape=(2.0,))}, bytes(8)), "impossible shape"),
    "size is true": (file({"a": entry(shape=(True, 2))}, bytes(8)), "impossible shape"),
    "huge size": (file({"a": entry(shape=(1 << 62, 4))}, bytes(8)), "impossible shape"),
    "nine dimensions": (file({"a": entry(shape=(1,) * 9)}, bytes(8)), "impossible shape"),
    "one offset": (file({"a": entry(offsets=(0,))}, bytes(8)), "impossible data offsets"),
    "negative offset": (file({"a": entry(offsets=(-8, 0))}, bytes(8)), "impossible data offsets"),
    "sizes disagree": (file({"a": entry(offsets=(0, 4))}, bytes(8)), "needs 8 bytes, but"),
    "ends before it begins": (file({"a": entry(offsets=(8, 0))}, bytes(8)), "needs 8 bytes"),
    "overlap": (
        file({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
        "'b' overlaps another",
    ),
    "hole at the start": (file({"a": entry(offsets=(4, 12))}, bytes(12)), "leaves a hole"),
    "hole between": (
        file({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
        "'b' leaves a hole",
    ),
    "data cut": (file({"a": entry()}, bytes(7)), "truncated or damaged"),
    "data left over": (file({"a": entry()}, bytes(9)), "tensors end at byte"),
    "unprintable name": (file({"\u001b[2J": entry()}, bytes(8)), "unusable name"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_lie_is_one_sentence(name):
    data, reason = BAD[name]
    with pytest.raises(FormatError) as caught:
        read(data)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 400


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z.]{1,12}", fullmatch=True),
        st.tuples(
            st.lists(st.integers(0, 4), max_size=3),
            st.sampled_from([np.float32, np.float16, np.int8, np.int64]),
        ),
        max_size=5,
    )
)
def test_what_the_package_writes_is_read(shapes):
    from safetensors.numpy import save

    arrays = {name: np.ones(shape, dtype) for name, (shape, dtype) in shapes.items()}
    data = save(arrays)
    found = {tensor.name: tensor for tensor in read(data)}
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        tensor = found[name]
        assert tensor.shape == array.shape
        stored = np.frombuffer(data, array.dtype, array.size, tensor.offset)
        np.testing.assert_array_equal(stored.reshape(array.shape), array)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 150), st.integers(1, 255))
def test_a_damaged_file_is_read_only_where_the_package_reads_it(place, change):
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = bytearray(file({"a": entry(), "b": entry("F16", (1, 3), (8, 14))}, bytes(range(14))))
    data[place % len(data)] ^= change
    try:
        ours = {tensor.name: tensor.shape for tensor in read(bytes(data))}
    except FormatError:
        return
    try:
        theirs = load(bytes(data))
    except (SafetensorError, KeyError, AttributeError):
        # A type that NumPy lacks is sound, and merely unknown to this way of loading.
        return
    assert ours == {name: array.shape for name, array in theirs.items()}
