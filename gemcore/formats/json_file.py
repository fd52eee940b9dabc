"""JSON from files that are not trusted: bounded, without duplicate keys, without NaN."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from gemcore.errors import FormatError, GemError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 1 << 26


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        FormatError: it is not JSON, not an object, or holds a key twice, NaN or infinity.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise ValueError(f"key {twice[:80]!r} appears twice")
        return values

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise FormatError(f"{where} is not usable JSON: it is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{where} is not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{where} must hold a JSON object, not a {type(value).__name__}")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        UsageError: there is no such file.
        FormatError: it is too large, or not a JSON object.
        GemError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise FormatError(f"{path} has {size} bytes, more than the {_MAX_BYTES} allowed")
        return parse_object(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise GemError(f"cannot read {path}: {error.strerror}") from error
