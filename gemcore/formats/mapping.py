"""Mapping a file into memory, read only."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError, GemError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """Map a regular file: uint8 `[bytes]`, read only, nothing read yet.

    Raises:
        UsageError: there is no such file.
        FormatError: it is empty or not a regular file; a pipe or a device is never opened.
        GemError: it may not be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{path} is not a regular file")
        if status.st_size == 0:
            raise FormatError(f"{path} is empty")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise GemError(f"cannot read {path}: {error.strerror}") from error
