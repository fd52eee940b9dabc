"""Work that is done in a copy of this process, so that its memory is gone when it is done."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def in_child(work: Callable[[], bytes]) -> bytes | None:
    """What `work` returns, done in a forked child of this process; None where that is not possible.

    None also stands for work that fails, in whatever way: whoever calls then does it without a child,
    and meets the error where it belongs. The work must not print, nor need threads of this process,
    for the child has none of them. Only Linux forks without trouble from the system's own libraries.
    """
    if sys.platform != "linux":
        return None
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no more processes are allowed
        os.close(reading)
        os.close(writing)
        return None
    if child == 0:
        _finish(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            result = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    return result if status == 0 else None


def _finish(work: Callable[[], bytes], writing: int) -> NoReturn:
    """Do the work and end this process, without anything that Python does at its end."""
    code = 1
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(work())
        code = 0
    finally:
        # Even an error ends here: the parent will meet the same one.
        os._exit(code)
