"""Paths of models."""

from __future__ import annotations

import pytest

from gem_models.local import LocalSource
from gemcore.errors import FormatError, UsageError


def test_what_exists_is_owned(tmp_path, monkeypatch):
    source = LocalSource()
    assert source.owns(str(tmp_path))
    assert not source.owns(str(tmp_path / "absent.gguf"))
    for odd in ("\0", "x" * 9999, "~nobody-at-all/x"):
        assert not source.owns(odd)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.gguf").touch()
    assert source.owns("~/m.gguf")
    assert source.cached() == ()


def test_files_and_folders_are_opened_as_what_they_are(tmp_path):
    (tmp_path / "m.gguf").write_text("text")
    with pytest.raises(FormatError, match="not a GGUF file"):
        LocalSource().load(str(tmp_path / "m.gguf"))
    with pytest.raises(UsageError, match=r"has no config.json"):
        LocalSource().load(str(tmp_path))
