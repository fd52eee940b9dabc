"""What can be wrong with a benchmark: errors that stop one task and let the others go on."""

from __future__ import annotations

from gemcore.errors import GemError


class TaskError(GemError):
    """One task cannot be run or scored; the message says why, and other tasks are not concerned."""


class DataError(TaskError):
    """A data file is missing or malformed; the message names the file, and the line if there is one."""


class BenchmarkFileError(GemError):
    """A TOML file of benchmark records is malformed; the message names the file and the record."""
