"""The per-user cache: where it is, how files get into it whole, what to say when they cannot."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gemcore.errors import GemError

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do, both in bytes."""

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def cache_root() -> Path:
    """The cache folder, which need not exist yet: `GEM_CACHE`, or the platform's own place.

    Not called "gem", because RubyGems keeps its files in a folder of that name.
    """
    chosen = os.environ.get("GEM_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("gemcore", appauthor=False)


def cache_folder(*parts: str) -> Path:
    """A folder under the cache, made where it is missing.

    Raises:
        GemError: it cannot be made.
    """
    folder = cache_root().joinpath(*parts)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the OSErrors of writing `path` into one sentence that says what to do.

    Raises:
        GemError: the disk is full, the place may not be written, or another OSError happened.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            reason = "the disk is full"
            remedy = "free some space, or set GEM_CACHE to a folder on another disk"
        elif error.errno in _FORBIDDEN:
            reason = "the folder is read-only for you"
            remedy = "set GEM_CACHE to a folder that you may write to"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            reason = "a file is where a folder must be"
            remedy = "move that file away, or set GEM_CACHE to another folder"
        else:
            reason = error.strerror or str(error)
            remedy = "set GEM_CACHE to use another folder"
        raise GemError(f"cannot write {path}: {reason}; {remedy}") from error


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `path` when the block ends, and vanishes if it fails.

    A reader sees the old file or the new one, never a part. The folder must exist.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "greeting"
    ...     with write_atomically(target) as file:
    ...         _ = file.write(b"hello")
    ...     target.read_bytes()
    b'hello'

    Raises:
        GemError: the disk is full, the folder may not be written, or another OSError happened.
    """
    with explained(path):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file beside `path`, so that only one process at a time makes it.

    Args:
        path: what the lock protects; the lock itself is a hidden file beside it.
        waiting: called once if another process holds the lock.

    Raises:
        GemError: the lock file cannot be made.
    """
    import filelock

    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    with explained(path):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if waiting:
                waiting()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def file_digest(path: Path, progress: Progress | None = None) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces.

    Raises:
        GemError: the file cannot be read.
    """
    digest = hashlib.sha256()
    done = 0
    try:
        total = path.stat().st_size
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                done += len(piece)
                if progress:
                    progress(done, total)
    except OSError as error:
        raise GemError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def remembered_digest(path: Path, progress: Progress | None = None) -> str:
    """SHA-256 of a file's bytes; the next call for an unchanged file finds it in the cache.

    A file counts as unchanged while its real path, size, modification time, change time and inode
    are the same: unpacking or copying one model over another can preserve the first three.

    Raises:
        GemError: the file cannot be read. A cache that cannot be read or written only costs time.
    """
    real = path.resolve()
    try:
        status = real.stat()
    except OSError as error:
        raise GemError(f"cannot read {path}: {error.strerror}") from error
    state: list[str | int] = [
        str(real),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    ]
    memo = cache_root() / "digests" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    known = _read_memo(memo, state)
    if known:
        return known
    digest = file_digest(real, progress)
    with suppress(GemError):
        cache_folder("digests")
        with write_atomically(memo) as file:
            file.write(json.dumps({"state": state, "sha256": digest}).encode())
    return digest


def _read_memo(memo: Path, state: list[str | int]) -> str | None:
    try:
        entry = json.loads(memo.read_bytes())
        digest = entry["sha256"] if entry["state"] == state else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return digest if isinstance(digest, str) and len(digest) == 64 else None
