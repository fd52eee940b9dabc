"""Numbers in answers: finding the last one, and comparing it with the reference."""

from __future__ import annotations

import math
import re
import unicodedata

_NUMBER = re.compile(r"[-\u2212]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_MARKED = re.compile(r"####\s*(?P<rest>[^\n]+)")
_LONGEST = 400


def ascii_digits(text: str) -> str:
    """Decimal digits of any script (Bengali, Thai, Arabic, …) as 0 to 9; the rest as it is."""
    return "".join(
        str(unicodedata.decimal(character)) if character.isdecimal() else character
        for character in text
    )


def parse_number(text: str) -> float | None:
    """The value of a text that is a number and no more, but for currency, percent and commas.

    >>> parse_number("$1,234.50")
    1234.5
    >>> parse_number("4 apples") is None
    True
    """
    bare = ascii_digits(text).strip().strip("$€£¥%. ").strip()
    match = _NUMBER.fullmatch(bare)
    return _value(match[0]) if match else None


def last_number(text: str) -> float | None:
    """The number after '####' (GSM8K's mark) if there is one, or else the last of the text.

    >>> last_number("4 + 3,000 makes 3,004.")
    3004.0

    As lm-evaluation-harness's "flexible-extract" for GSM8K, with any script's digits. None where
    there is no number.
    """
    text = ascii_digits(text)
    if marked := _MARKED.search(text):
        inside = _NUMBER.search(marked["rest"])
        if inside:
            return _value(inside[0])
    found = None
    for match in _NUMBER.finditer(text):
        found = match[0]
    return None if found is None else _value(found)


def numbers_agree(
    predicted: float, wanted: float, tolerance: float = 0.0, *, percent: bool = False
) -> bool:
    """Whether two numbers are equal within a relative tolerance.

    Args:
        predicted, wanted: the numbers.
        tolerance: allowed difference as a share of `wanted`'s magnitude.
        percent: also accept 100 times `wanted`: a ratio given in percent.
    """
    accepted = [wanted, 100 * wanted] if percent else [wanted]
    return any(
        math.isclose(predicted, value, rel_tol=0.0, abs_tol=max(tolerance * abs(value), 1e-6))
        for value in accepted
    )


def _value(text: str) -> float | None:
    if len(text) > _LONGEST:
        return None
    value = float(text.replace(",", "").replace("\u2212", "-"))
    return value if math.isfinite(value) else None
