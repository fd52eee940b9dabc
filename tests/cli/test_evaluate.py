"""The texts of `gem eval perplexity`, and what is wrong with them."""

from __future__ import annotations

import json

import pytest

from gemcore.cli.evaluate import read_texts
from gemcore.errors import UsageError


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_is_one_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\n\ntwo\n")
    assert read_texts(path) == ["one\n\ntwo\n"]


def test_json_lines_are_a_text_each(tmp_path):
    path = write(
        tmp_path / "texts.jsonl", {"text": "one"}, {"text": "two\u2028"}, {"text": "three"}
    )
    path.write_text(path.read_text() + "\n\n")
    assert read_texts(path) == ["one", "two\u2028", "three"]
    assert read_texts(path, limit=2) == ["one", "two\u2028"]


@pytest.mark.parametrize("line", [{"body": "one"}, {"text": 1}, ["text"], "text", None])
def test_a_line_without_text_is_named(tmp_path, line):
    path = write(tmp_path / "texts.jsonl", {"text": "one"}, line)
    with pytest.raises(UsageError, match="texts.jsonl, line 2: expected a JSON object"):
        read_texts(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such file: .*missing.txt"):
        read_texts(tmp_path / "missing.txt")
    with pytest.raises(UsageError, match="cannot read .*: Is a directory"):
        read_texts(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match="not valid UTF-8: byte 3"):
        read_texts(tmp_path / "latin.txt")
