"""Lines of a data file, one at a time and never longer than they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gem_suite.errors import DataError
from gem_suite.schema import parse_document
from gemcore.errors import FormatError
from gemcore.formats.json_file import parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gem_suite.schema import Document

MAX_LINE_BYTES = 10_000_000
"""The longest line that is read; a longer one is refused after this many bytes of it."""


def read_lines(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yield number, from 1, and content of each line that is not blank, without its end.

    Raises:
        DataError: the file cannot be read, or a line has more than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(limit + 2):
                number += 1
                content = line.removesuffix(b"\n").removesuffix(b"\r")
                if len(content) > limit:
                    raise DataError(
                        f"{path}, line {number}: it is longer than {limit} bytes, which no item "
                        "may be; the file is damaged or of another kind"
                    )
                if content.strip():
                    yield number, content
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: a benchmark's folder needs test.jsonl, one JSON object a line"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def read_objects(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield "file, line N" and the JSON object of each line.

    Raises:
        DataError: as `read_lines`, or a line is no JSON object.
    """
    for number, line in read_lines(path, limit):
        where = f"{path}, line {number}"
        try:
            yield where, parse_object(line, where)
        except FormatError as error:
            raise DataError(str(error)) from None


def read_documents(
    path: Path, task_type: str | None = None, limit: int = MAX_LINE_BYTES
) -> Iterator[Document]:
    """Yield the checked items of a file, lazily.

    Args:
        path: a file of one JSON object a line.
        task_type: what every item must be; None lets each be what it says.
        limit: the longest line, bytes.

    Raises:
        DataError: file and line of the first thing that is wrong.
    """
    for index, (where, values) in enumerate(read_objects(path, limit)):
        document = parse_document(values, where, index)
        if task_type is not None and document.task_type != task_type:
            raise DataError(
                f"{where}: 'task_type' is '{document.task_type}', but the benchmark is "
                f"'{task_type}'"
            )
        yield document
