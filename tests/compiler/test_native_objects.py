"""Object files of native sources, kept in the cache."""

from __future__ import annotations

import ctypes
import subprocess

import pytest
from tvm.support import cc

from gemcore.compiler.native_objects import native_objects


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "answer.cc"
    path.write_text('extern "C" int answer() { return ANSWER; }\n')
    return path


def linked_answer(objects, library):
    subprocess.run([cc.get_cc(), "-shared", *objects, "-o", library], check=True)
    return ctypes.CDLL(library).answer()


def test_they_are_compiled_once(source, tmp_path):
    (first,) = native_objects(cc.get_cc(), [source], ["-DANSWER=42"])
    stamp = first.stat().st_mtime_ns
    assert native_objects(cc.get_cc(), [source], ["-DANSWER=42"]) == [first]
    assert first.stat().st_mtime_ns == stamp
    assert linked_answer([first], tmp_path / "one.so") == 42


def test_other_words_and_other_sources_make_others(source, tmp_path):
    (first,) = native_objects(cc.get_cc(), [source], ["-DANSWER=42"])
    (other,) = native_objects(cc.get_cc(), [source], ["-DANSWER=6"])
    assert linked_answer([other], tmp_path / "two.so") == 6
    source.write_text('extern "C" int answer() { return 9 * ANSWER; }\n')
    (changed,) = native_objects(cc.get_cc(), [source], ["-DANSWER=6"])
    assert linked_answer([changed], tmp_path / "three.so") == 54
    assert len({first, other, changed}) == 3


def test_what_fails_leaves_nothing(source, tmp_path):
    with pytest.raises(RuntimeError, match="ANSWER"):
        native_objects(cc.get_cc(), [source], [])
    with pytest.raises(RuntimeError, match="no/such/compiler"):
        native_objects("/no/such/compiler", [source], [])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
