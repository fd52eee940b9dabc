"""A GGUF header made byte by byte: each lie in it is one sentence, quickly and cheaply."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemcore.errors import FormatError
from gemcore.formats.gguf_header import MAX_ARRAY_ITEMS, MAX_ENTRIES, read_header

HUGE = (1 << 64) - 1


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def tensor(name="t", sizes=(32,), code=0, offset=0):
    return (
        text(name)
        + struct.pack("<I", len(sizes))
        + b"".join(struct.pack("<Q", size) for size in sizes)
        + struct.pack("<IQ", code, offset)
    )


def head(tensors=0, keys=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def file(keys=(), tensors=(), data=b"", alignment=32):
    header = head(len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


def read(data):
    return read_header(np.frombuffer(data, np.uint8), Path("x.gguf"))


def test_values_of_every_type():
    keys = [
        key("u8", 0, b"\xff"),
        key("i8", 1, b"\xff"),
        key("u16", 2, b"\xff\xff"),
        key("i16", 3, b"\xff\xff"),
        key("u32", 4, b"\xff\xff\xff\xff"),
        key("i32", 5, b"\xff\xff\xff\xff"),
        key("f32", 6, struct.pack("<f", 0.5)),
        key("bool", 7, b"\1"),
        key("str", 8, text("Grüße 🙂")),
        key("u64", 10, b"\xff" * 8),
        key("i64", 11, b"\xff" * 8),
        key("f64", 12, struct.pack("<d", 0.1)),
        key("ints", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
        key("bools", 9, struct.pack("<IQ2B", 7, 2, 0, 1)),
        key("strs", 9, struct.pack("<IQ", 8, 2) + text("Ġa") + text("")),
        key("none", 9, struct.pack("<IQ", 4, 0)),
    ]
    header = read(file(keys))
    assert dict(header.metadata) == {
        "u8": 255, "i8": -1, "u16": 65535, "i16": -1, "u32": 2**32 - 1, "i32": -1, "f32": 0.5,
        "bool": True, "str": "Grüße 🙂", "u64": 2**64 - 1, "i64": -1, "f64": 0.1,
        "ints": [1, -2, 3], "bools": [False, True], "strs": ["Ġa", ""], "none": [],
    }  # fmt: skip
    assert header.version == 3
    assert header.tensors == ()


def test_tensors_are_placed():
    data = file(
        [key("general.alignment", 4, struct.pack("<I", 64))],
        [tensor("b", (64, 3), 2, 64), tensor("a", (3,), 0, 0)],
        bytes(64 + 108),
        alignment=64,
    )
    first, second = read(data).tensors
    assert (first.name, first.shape, first.encoding.name) == ("b", (3, 64), "Q4_0")
    assert (first.offset, first.size) == (len(data) - 108, 108)
    assert (second.name, second.offset, second.size) == ("a", len(data) - 172, 12)


def array(kind, count, body=b""):
    return key("k", 9, struct.pack("<IQ", kind, count) + body)


BAD = {
    "a text file": (b"Hello, this is text.\n", "it is not a GGUF file: it begins with b'Hello"),
    "a pickle": (b"\x80\x04\x95 and so on", "not a GGUF file"),
    "one byte": (b"G", "not a GGUF file"),
    "only the magic": (b"GGUF", "the version needs 4 bytes"),
    "version 1": (head(version=1), "version 1 is not supported; versions 2 and 3"),
    "version 4": (head(version=4), "version 4 is not supported"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big endian"),
    "no counts": (head()[:12], "the number of tensors needs 8 bytes"),
    "huge key count": (head(0, HUGE), "metadata keys, more than the 65536 allowed"),
    "huge tensor count": (head(HUGE, 0), "tensors, more than the 65536 allowed"),
    "no room for keys": (head(0, MAX_ENTRIES), "have no room"),
    "no room for tensors": (head(MAX_ENTRIES, 0), "have no room"),
    "lying key length": (head(0, 1) + struct.pack("<Q", 500) + bytes(20), "needs 500 bytes"),
    "huge key length": (head(0, 1) + struct.pack("<Q", HUGE) + bytes(20), "more than the 1024"),
    "empty key": (file([key("", 0, b"\0")]), "is empty or holds unprintable"),
    "key that steers a terminal": (file([key("\x1b[2J", 0, b"\0")]), "unprintable"),
    "key that is no UTF-8": (file([key(b"\xff\xfe", 0, b"\0")]), "not valid UTF-8"),
    "key twice": (file([key("k", 0, b"\0"), key("k", 0, b"\0")]), "'k' appears twice"),
    "unknown type": (file([key("k", 13, bytes(8))]), "the unknown type 13"),
    "truth of 2": (file([key("k", 7, b"\2")]), "a truth value of 2"),
    "truths of 2": (file([array(7, 2, b"\0\2")]), "truth values other than 0 and 1"),
    "lying string": (file([key("k", 8, struct.pack("<Q", 4000) + b"abc")]), "needs 4000 bytes"),
    "huge string": (file([key("k", 8, struct.pack("<Q", HUGE) + b"abc")]), "16777216 allowed"),
    "bad string": (file([key("k", 8, text(b"\xff"))]), "not valid UTF-8"),
    "array of arrays": (file([array(9, 1, bytes(40))]), "arrays in arrays"),
    "array of unknowns": (file([array(77, 1, bytes(40))]), "the unknown type 77"),
    "huge array": (file([array(12, HUGE, bytes(40))]), f"the {MAX_ARRAY_ITEMS} allowed"),
    "array whose size overflows": (file([array(12, 1 << 61, bytes(40))]), "allowed"),
    "array without room": (file([array(4, 1000, bytes(40))]), "no room"),
    "strings without room": (file([array(8, 1000, bytes(40))]), "no room"),
    "lying string in array": (
        file([array(8, 2, text("a") + struct.pack("<Q", 9999))]),
        "a string in the array 'k' needs 9999 bytes",
    ),
    "huge string in array": (
        file([array(8, 2, text("a") + struct.pack("<Q", HUGE))]),
        f"needs {HUGE} bytes",
    ),
    "bad string in array": (file([array(8, 1, text(b"\xff"))]), "not valid UTF-8"),
    "last string cut": (head(0, 1) + array(8, 2, text("abcdefgh")), "needs 8 bytes"),
    "alignment 0": (file([key("general.alignment", 4, bytes(4))]), "alignment is 0"),
    "alignment 24": (file([key("general.alignment", 4, b"\x18\0\0\0")]), "alignment is 24"),
    "alignment 4": (file([key("general.alignment", 4, b"\4\0\0\0")]), "alignment is 4"),
    "alignment 2**31": (file([key("general.alignment", 4, b"\0\0\0\x80")]), "alignment is 2147"),
    "alignment text": (file([key("general.alignment", 8, text("32"))]), "alignment is '32'"),
    "long tensor name": (file([], [tensor("t" * 65)], bytes(128)), "more than the 64 allowed"),
    "rank 0": (file([], [tensor(sizes=())], bytes(128)), "0 dimensions; 1 to 4"),
    "rank 5": (file([], [tensor(sizes=(1,) * 5)], bytes(128)), "5 dimensions; 1 to 4"),
    "huge rank": (
        head(1) + text("t") + struct.pack("<I", 0xFFFFFFFF) + bytes(99),
        "4294967295 dimensions",
    ),
    "size 0": (file([], [tensor(sizes=(0, 4))], bytes(128)), "the impossible shape [4, 0]"),
    "product overflows": (
        file([], [tensor(sizes=(1 << 32, 1 << 32))], bytes(128)),
        "the impossible shape",
    ),
    "product overflows to little": (
        file([], [tensor(sizes=(1 << 33, 1 << 33, 1 << 33))], bytes(128)),
        "the impossible shape",
    ),
    "unsupported type": (file([], [tensor(code=10)], bytes(128)), "has type Q2_K; supported are"),
    "unknown tensor type": (file([], [tensor(code=999)], bytes(128)), "has type number 999"),
    "rows not in blocks": (
        file([], [tensor(sizes=(48, 2), code=2)], bytes(128)),
        "rows of 48 values, which are not whole Q4_0 blocks of 32",
    ),
    "tensor twice": (
        file([], [tensor("t"), tensor("t", offset=128)], bytes(256)),
        "'t' appears twice",
    ),
    "offset between": (
        file([], [tensor(offset=8)], bytes(256)),
        "offset 8, which is not a multiple of the alignment, 32",
    ),
    "offset far away": (file([], [tensor(offset=1 << 40)], bytes(128)), "has only"),
    "offset overflows": (file([], [tensor(offset=HUGE - 31)], bytes(128)), "has only"),
    "data cut": (file([], [tensor()], bytes(127)), "truncated or damaged"),
    "no data": (file([], [tensor()]), "truncated or damaged"),
    "overlap": (
        file([], [tensor("a"), tensor("b", offset=64)], bytes(256)),
        "tensors 'a' and 'b' overlap",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_lie_is_one_sentence(name):
    data, reason = BAD[name]
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert reason in message
    assert message.startswith("x.gguf cannot be used: ")
    assert "\n" not in message
    assert len(message) < 400
    assert peak < 1 << 20


def test_all_string_arrays_share_one_limit():
    many = MAX_ARRAY_ITEMS * 2 // 3
    body = bytes(8 * many)
    keys = [key(name, 9, struct.pack("<IQ", 8, many) + body) for name in "ab"]
    with pytest.raises(FormatError, match=r"items in the array 'b', more than the \d+ allowed"):
        read(file(keys))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(FormatError):
        read(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + data + b"\0")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_.]{0,20}", fullmatch=True).filter(
            lambda name: name != "general.alignment"
        ),
        st.one_of(
            st.text(max_size=20).map(lambda value: (8, text(value), value)),
            st.integers(0, 2**64 - 1).map(lambda value: (10, struct.pack("<Q", value), value)),
            st.lists(st.text(max_size=5), max_size=5).map(
                lambda values: (
                    9,
                    struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values)),
                    values,
                )
            ),
        ),
        max_size=6,
    )
)
def test_what_is_written_is_read(entries):
    keys = [key(name, kind, value) for name, (kind, value, _) in entries.items()]
    expected = {name: value for name, (_, _, value) in entries.items()}
    assert dict(read(file(keys)).metadata) == expected
