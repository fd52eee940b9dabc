"""Work that is done in a copy of this process, so that its memory is gone when it is done."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def in_child(work: Callable[[], bytes]) -> bytes | None:
    """What `work` returns, done in a forked child of this process; None where that is not possible.

    None also stands for work that fails, in whatever way: whoever calls then does it without a child,
    and meets the error where it belongs. The work must not print, nor need threads of this process,
    for the child has none of them. Only Linux forks without trouble from the system's own libraries.
    """
    if sys.platform != "linux":
        return None
    reading, writing = os.pipe()
    # An interrupt right after the fork waits until it is known which child is to be ended.
    interrupts = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child = os.fork()
    except OSError:  # no more processes are allowed
        signal.pthread_sigmask(signal.SIG_SETMASK, interrupts)
        os.close(reading)
        os.close(writing)
        return None
    if child == 0:
        _finish(work, writing, interrupts)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, interrupts)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            result = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    return result if status == 0 else None


def _finish(work: Callable[[], bytes], writing: int, interrupts: Iterable[int]) -> NoReturn:
    """Do the work and end this process, without anything that Python does at its end."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, interrupts)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(work())
        code = 0
    finally:
        # Even an error ends here: the parent will meet the same one.
        os._exit(code)
