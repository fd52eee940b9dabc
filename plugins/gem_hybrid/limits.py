"""What the user asks of a plan: bytes, bits a weight, or a KL divergence."""

from __future__ import annotations

import re

import attrs

from gemcore.errors import UsageError
from gemcore.packing import SCHEMES, get_scheme

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)\Z", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


@attrs.frozen(kw_only=True)
class Limit:
    """Exactly one of two bounds.

    Attributes:
        bytes: the most that all packed weights may take.
        kl: the most that the expected KL divergence may be, in nats a token.
        words: the option as the user typed it.
    """

    bytes: int | None = None
    kl: float | None = None
    words: str


def read_bytes(text: str) -> int:
    """A size in bytes.

    >>> read_bytes("80MB"), read_bytes("1.5 KiB")
    (80000000, 1536)

    Raises:
        UsageError: for anything that is no size.
    """
    found = _SIZE.match(text.strip())
    unit = found and _UNITS.get(found["unit"].lower())
    if not found or not unit:
        raise UsageError(
            f"quantizer 'hybrid': budget '{text}' is no size: write a number of bytes, or one with "
            "kB, MB, GB, KiB, MiB or GiB behind it, for example 80MB"
        )
    return int(float(found["number"]) * unit)


def read_limit(
    budget: str | None, bits: float | None, max_kl: float | None, weights: int
) -> Limit | None:
    """The limit that the options ask for, of a model of so many weights; None without any.

    Raises:
        UsageError: more than one is given, or the budget is no size.
    """
    given = {
        name: value
        for name, value in (("budget", budget), ("bits", bits), ("max_kl", max_kl))
        if value is not None
    }
    if len(given) > 1:
        raise UsageError(
            f"quantizer 'hybrid': give one of budget, bits and max_kl, not {' and '.join(given)}"
        )
    if budget is not None:
        return Limit(bytes=read_bytes(budget), words=f"budget={budget}")
    if bits is not None:
        return Limit(bytes=round(bits * weights / 8), words=f"bits={bits:g}")
    return None if max_kl is None else Limit(kl=max_kl, words=f"max_kl={max_kl:g}")


def read_schemes(text: str | None) -> tuple[str, ...]:
    """The schemes to choose among: those named, or all that there are.

    Raises:
        UsageError: one does not exist, or none is named.
    """
    names = tuple(SCHEMES) if text is None else tuple(dict.fromkeys(text.split()))
    if not names:
        raise UsageError(
            "quantizer 'hybrid': option 'schemes' is empty: name some of " + ", ".join(SCHEMES)
        )
    return tuple(get_scheme(name).name for name in names)
