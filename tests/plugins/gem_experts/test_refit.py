"""Files of examples."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_experts.refit import read_examples
from gemcore.errors import FormatError, UsageError

texts = st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5)


@given(texts, st.booleans())
def test_json_lines_hold_any_text(tmp_path_factory, examples, objects):
    path = tmp_path_factory.getbasetemp() / "examples.jsonl"
    lines = [json.dumps({"text": text, "id": 1} if objects else text) for text in examples]
    path.write_text("\n\n".join(lines) + "\n")
    assert read_examples(path) == tuple(examples)


def test_plain_text_has_one_a_line(tmp_path):
    path = tmp_path / "examples.txt"
    path.write_text(' one\n\n{"text": 1}\n')
    assert read_examples(path) == ("one", '{"text": 1}')


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("a.txt", b"\n \n", UsageError, "holds no examples"),
        ("a.txt", b"\xff", FormatError, "is not valid UTF-8"),
        ("a.jsonl", b'"a"\n{', FormatError, "a.jsonl, line 2: this is not JSON"),
        ("a.jsonl", b"3", FormatError, "line 1: neither a text nor an object with a text"),
        ("a.jsonl", b'{"text": ""}', FormatError, "line 1: neither a text"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, kind, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=words):
        read_examples(tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_examples(tmp_path / "nowhere.txt")
