"""Work in a forked child: what comes back, what does not, and what is left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemcore.runtime.child import in_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_result_comes_back_whole(size: int) -> None:
    assert in_child(lambda: b"x" * size) == b"x" * size


def test_the_work_is_done_in_another_process_that_is_gone_then() -> None:
    before = open_files()
    other = int(in_child(lambda: str(os.getpid()).encode()) or b"")
    assert other != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)
    assert open_files() == before


def test_what_the_work_changes_is_not_changed_here() -> None:
    values: list[int] = []

    def change() -> bytes:
        values.append(1)
        return bytes(values)

    assert in_child(change) == b"\x01"
    assert values == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_work_that_fails_gives_nothing_and_prints_nothing(
    error: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> bytes:
        raise error("the parent will meet this one")

    assert in_child(fail) is None
    assert capfd.readouterr() == ("", "")


def test_a_child_that_is_killed_gives_nothing() -> None:
    assert in_child(lambda: os.kill(os.getpid(), 9) or b"") is None  # type: ignore[func-returns-value]


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    before = open_files()
    assert in_child(lambda: b"x") is None
    assert open_files() == before


def test_other_systems_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert in_child(lambda: b"x") is None


INTERRUPTED = """
import os, signal, sys, time
from gemcore.runtime.child import in_child
def work():
    print(os.getpid(), flush=True)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
try:
    in_child(work)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_ends_the_child_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30, check=True
    )
    child, told = done.stdout.split()
    assert told == "interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


MEMORY = """
from gemcore.runtime.child import in_child
from gemcore.runtime.memory import peak_memory_bytes
before = peak_memory_bytes()
size = in_child(lambda: str(len(b"1" * 50_000_000)).encode())
print(int(size), peak_memory_bytes() - before)
"""


def test_memory_of_the_child_is_not_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=30, check=True
    )
    size, grown = map(int, done.stdout.split())
    assert size == 50_000_000
    assert grown < 5_000_000
