"""Reading files line by line."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.errors import DataError
from gem_suite.lines import read_documents, read_lines, read_objects


@given(lines=st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)))
def test_lines_are_those_of_the_file(lines, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "f"
    path.write_bytes(b"\n".join(lines))
    expected = [
        (number, line.removesuffix(b"\r")) for number, line in enumerate(lines, 1) if line.strip()
    ]
    assert list(read_lines(path)) == expected


def test_a_long_line_is_refused_without_being_held(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_bytes(b"{}\n" + b"x" * 50_000_000 + b"\n")
    tracemalloc.start()
    with pytest.raises(DataError, match="line 2: it is longer than 10000000 bytes"):
        list(read_lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000


def test_the_limit_is_exact(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345\r\n12345\n12345")
    assert [line for _, line in read_lines(path, 5)] == [b"12345"] * 3
    with pytest.raises(DataError, match="line 1"):
        list(read_lines(path, 4))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl does not exist"):
        list(read_lines(tmp_path / "absent.jsonl"))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(
    "line", [b"[1]", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'"text"', b"\xff", b"[" * 99999]
)
def test_what_is_no_json_object_is_named(tmp_path, line):
    path = tmp_path / "test.jsonl"
    path.write_bytes(b'{"good": 1}\n\n' + line)
    with pytest.raises(DataError, match=r"test\.jsonl, line 3"):
        list(read_objects(path))


def test_documents_come_lazily(tmp_path, items):
    path = tmp_path / "test.jsonl"
    good = json.dumps(items["generation_qa"])
    path.write_text(f"{good}\n\n{good}\nbroken\n", encoding="utf-8")
    documents = read_documents(path, "generation_qa")
    assert [next(documents).index, next(documents).index] == [0, 1]
    with pytest.raises(DataError, match="line 4"):
        next(documents)


def test_another_task_type_is_refused(tmp_path, items):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(items["generation_qa"]), encoding="utf-8")
    with pytest.raises(DataError, match="'task_type' is 'generation_qa', but the benchmark is"):
        list(read_documents(path, "classification"))
