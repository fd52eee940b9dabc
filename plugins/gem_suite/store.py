"""The journal of a run: every scored item as it comes, so that a killed run goes on where it was.

A text file of JSON lines beside the result file. The first line says what run it is of; each other
line is one item. Whoever opens it again gets what was written whole.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gem_suite.runner_worker import Record
from gemcore.errors import FormatError, GemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

JOURNAL_FORMAT = 1
MAX_LINE_BYTES = 20_000_000
"""The longest line of a journal that is read."""

SYNC_SECONDS = 5.0
"""What a power failure can cost at most; a killed process loses nothing that was appended."""


def journal_path(output: Path) -> Path:
    """Where the journal of a result file lies."""
    return output.with_name(f"{output.name}.journal")


class Journal:
    """Open with `open_journal`.

    Attributes:
        records: what was there already, by task and `doc_id`.
    """

    def __init__(
        self, path: Path, file: IO[bytes], records: Mapping[str, Mapping[int, Record]]
    ) -> None:
        self._path = path
        self._file = file
        self.records = records
        self._synced = time.monotonic()

    def append(self, records: Sequence[Record]) -> None:
        """Write items; they outlive the process.

        Raises:
            GemError: they cannot be written.
        """
        with _explained(self._path):
            self._file.write(b"".join(map(_line, records)))
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self.sync()

    def sync(self) -> None:
        """Have the system write what it holds back."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def remove(self) -> None:
        """Delete the journal, once the result file is written."""
        with _explained(self._path):
            self._path.unlink(missing_ok=True)


@contextmanager
def open_journal(
    path: Path, identity: Mapping[str, Any], *, restart: bool = False
) -> Iterator[Journal]:
    """Begin a journal, or go on with the one that is there.

    Args:
        path: the journal's file.
        identity: what all its items depend on: options, model, and under `tasks` the digest of each
            task, None for one that could not be read.
        restart: begin anew, whatever is there.

    Raises:
        UsageError: the journal belongs to another run, or another process is writing it.
        FormatError: the journal is damaged in its middle.
        GemError: it cannot be read or written.
    """
    identity = json.loads(json.dumps(identity))
    with _locked(path):
        with _explained(path):
            records = {} if restart else _read(path, identity)
            file = _rewrite(path, identity, records)
        with file:
            journal = Journal(path, file, records)
            try:
                yield journal
            finally:
                journal.sync()


def _rewrite(
    path: Path, identity: Mapping[str, Any], records: Mapping[str, Mapping[int, Record]]
) -> IO[bytes]:
    """Put a journal of whole lines in place, open for more."""
    temporary = _temporary(path)
    try:
        file = temporary.open("xb")
        try:
            file.write(_json_line({"format": JOURNAL_FORMAT, "run": identity}))
            file.writelines(
                _line(record) for items in records.values() for record in items.values()
            )
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            file.close()
            raise
    finally:
        with suppress(OSError):
            temporary.unlink()
    return file


def write_result(path: Path, values: Mapping[str, Any]) -> None:
    """Write a result file under a temporary name, then rename it.

    Raises:
        GemError: it cannot be written.
    """
    temporary = _temporary(path)
    content = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with _explained(path):
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _line(record: Record) -> bytes:
    return _json_line({"task": record.task, "cut": record.cut, "sample": record.sample})


def _json_line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, dict[int, Record]]:
    """The items of a journal, by task and `doc_id`; none where there is no journal."""
    lines = _whole_lines(path)
    header = next(lines, None)
    if header is None:
        return {}
    _check_run(path, header, identity)
    records: dict[str, dict[int, Record]] = {}
    for number, line in enumerate(lines, start=2):
        record = _record(line)
        if record is None:
            raise FormatError(
                f"{path}, line {number}: it is no scored item, so the journal is damaged: begin anew "
                "with --restart"
            )
        records.setdefault(record.task, {})[record.document] = record
    return records


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Each line as a JSON object; a last line that was not written to its end is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                return
            value = _parsed(line)
            if not isinstance(value, dict):
                raise FormatError(
                    f"{path}, line {number}: it is no JSON object, so the journal is damaged: begin "
                    "anew with --restart"
                )
            yield value


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _record(line: Mapping[str, Any]) -> Record | None:
    task, cut, sample = line.get("task"), line.get("cut"), line.get("sample")
    if not isinstance(task, str) or not _is_count(cut) or not isinstance(sample, dict):
        return None
    if not _is_count(sample.get("doc_id")):
        return None
    assert isinstance(cut, int)
    return Record(task=task, sample=sample, cut=cut)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_run(path: Path, header: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse the journal of another run, and say in what it differs."""
    run = header.get("run")
    if header.get("format") != JOURNAL_FORMAT or not isinstance(run, dict):
        raise FormatError(
            f"{path} is no journal of this version of GEM: move it away, or begin anew with --restart"
        )
    for name in sorted({*run, *identity} - {"tasks"}):
        if run.get(name) != identity.get(name):
            raise _another(path, f"its {name} is {run.get(name)!r}, not {identity.get(name)!r}")
    theirs, ours = run.get("tasks"), identity["tasks"]
    if not isinstance(theirs, dict) or set(theirs) != set(ours):
        found = len(theirs) if isinstance(theirs, dict) else "no"
        raise _another(path, f"it has {found} tasks where this run has {len(ours)}, or other ones")
    for name, digest in ours.items():
        # A task that could not be read has no items, so it may have been corrected since.
        if None not in (digest, theirs[name]) and digest != theirs[name]:
            raise _another(path, f"the items of task '{name}' are others now")


def _another(path: Path, difference: str) -> UsageError:
    return UsageError(
        f"{path} belongs to another run: {difference}; finish that run first, choose another file "
        "with -o, or begin anew with --restart"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    with _explained(path):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(
                f"another process is writing {path}: wait for it, or choose another file with -o"
            ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GemError(f"cannot write {path}: {error.strerror or error}") from error
