"""The per-user cache: files appear whole or not at all, and every failure is one sentence."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemcore import cache
from gemcore.errors import GemError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_environment_chooses_the_place(root, monkeypatch):
    assert cache.cache_root() == root
    assert not root.exists()
    assert cache.cache_folder("models", "tiny") == root / "models" / "tiny"
    assert (root / "models" / "tiny").is_dir()
    monkeypatch.setenv("GEM_CACHE", "~/elsewhere")
    assert cache.cache_root() == Path.home() / "elsewhere"


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_the_platform_chooses(monkeypatch, value):
    import platformdirs

    monkeypatch.delenv("GEM_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("GEM_CACHE", value)
    assert cache.cache_root() == Path(platformdirs.user_cache_dir("gemcore", appauthor=False))


def test_importing_it_is_light():
    code = "import sys, gemcore.cache; print({'platformdirs', 'filelock'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_written_file_replaces_the_old_one_at_once(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with cache.write_atomically(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def half_write():
        with cache.write_atomically(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        half_write()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with cache.write_atomically(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full; free some space, or set GEM_CACHE"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "read-only for you; set GEM_CACHE to a folder that you may write to"),
        (errno.EACCES, "read-only for you"),
        (errno.ENOTDIR, "a file is where a folder must be"),
        (errno.EIO, "Input/output error; set GEM_CACHE"),
    ],
)
def test_failures_are_sentences(tmp_path, number, said):
    target = tmp_path / "file"
    with pytest.raises(GemError) as caught, cache.write_atomically(target):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"cannot write {target}: ")
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full():
    with pytest.raises(GemError, match="the disk is full"), cache.explained(Path("x")):
        Path("/dev/full").write_bytes(b"x" * 65536)


def test_a_file_in_the_way_of_the_cache(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "file"))
    with pytest.raises(GemError, match="a file is where a folder must be"):
        cache.cache_folder("models")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_cache_that_may_not_be_written(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(GemError, match="read-only for you"):
        cache.cache_folder("models")


def test_one_at_a_time(tmp_path):
    order = []
    held, waits = threading.Event(), threading.Event()

    def second():
        held.wait(10)
        with cache.locked(tmp_path / "thing", waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with cache.locked(tmp_path / "thing", lambda: order.append("never")):
        held.set()
        assert waits.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_is_released_after_an_error(tmp_path):
    for _ in range(2):
        with (
            pytest.raises(KeyError),
            cache.locked(tmp_path / "thing", lambda: pytest.fail("held")),
        ):
            raise KeyError


@settings(deadline=None, max_examples=20)
@given(data=st.binary(max_size=3000))
def test_digests_are_sha256(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(data)
    seen = []
    digest = cache.file_digest(path, lambda done, total: seen.append((done, total)))
    assert digest == hashlib.sha256(data).hexdigest()
    assert seen == ([(len(data), len(data))] if data else [])


@pytest.fixture
def counted(monkeypatch):
    """Paths that were really read."""
    read = []
    original = cache.file_digest
    monkeypatch.setattr(
        cache, "file_digest", lambda path, progress=None: (read.append(path), original(path))[1]
    )
    return read


def test_an_unchanged_file_is_hashed_once(root, tmp_path, counted):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert [cache.remembered_digest(path) for _ in range(3)] == [expected] * 3
    link = tmp_path / "link"
    link.symlink_to(path)
    assert cache.remembered_digest(link) == expected
    assert len(counted) == 1


def test_a_changed_file_is_hashed_again_even_with_size_and_time_kept(root, tmp_path, counted):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    times = path.stat()
    cache.remembered_digest(path)
    for text in (b"two", b"six"):
        other = tmp_path / "other"
        other.write_bytes(text)
        other.replace(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert cache.remembered_digest(path) == hashlib.sha256(text).hexdigest()
    assert len(counted) == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"state": 1, "sha256": 5}', "[" * 9999])
def test_a_damaged_memo_only_costs_time(root, tmp_path, counted, text):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    expected = cache.remembered_digest(path)
    (memo,) = (root / "digests").iterdir()
    memo.write_text(text)
    assert cache.remembered_digest(path) == expected
    assert len(counted) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch, counted):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "blocked"))
    for _ in range(2):
        assert cache.remembered_digest(path) == hashlib.sha256(b"one").hexdigest()
    assert len(counted) == 2


def test_a_missing_file_is_a_sentence(root, tmp_path):
    for function in (cache.remembered_digest, cache.file_digest):
        with pytest.raises(GemError, match=r"cannot read .*absent: No such file"):
            function(tmp_path / "absent")
