"""What the user asks of a plan: bytes, bits a weight, a KL divergence, or the time of a token."""

from __future__ import annotations

import re

import attrs

from gemcore.errors import UsageError
from gemcore.schemes import SCHEMES, get_scheme

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)\Z", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


CHOICES = ("q2z-g32", "q3z-g32", "q4z-g32", "q5z-g32", "q6-g32", "q8-g32", "f16")
"""Schemes to choose among if none are named: of each width the one that loses least for its bytes, among
those whose kernels read as many bytes a second as `q4a-g32`'s."""


@attrs.frozen(kw_only=True)
class Limit:
    """Exactly one of three bounds.

    Attributes:
        bytes: the most that all packed weights may take.
        kl: the most that the expected KL divergence may be, in nats a token.
        seconds: the longest that one token may be expected to take on a device.
        words: the option as the user typed it.
    """

    bytes: int | None = None
    kl: float | None = None
    seconds: float | None = None
    words: str


def read_bytes(text: str, option: str = "budget") -> int:
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
            f"quantizer 'hybrid': {option} '{text}' is no size: write a number of bytes, or one with "
            "kB, MB, GB, KiB, MiB or GiB behind it, for example 80MB"
        )
    return int(float(found["number"]) * unit)


def read_seconds(text: str) -> float:
    """A time in seconds.

    >>> read_seconds("20ms")
    0.02

    Raises:
        UsageError: for anything that is no time, or is none at all.
    """
    found = _SIZE.match(text.strip())
    unit = found and _SECONDS.get(found["unit"].lower())
    if not found or not unit or not float(found["number"]):
        raise UsageError(
            f"quantizer 'hybrid': latency '{text}' is no time: write a number with s, ms or us behind "
            "it, for example 20ms"
        )
    return float(found["number"]) * unit


def read_limit(
    budget: str | None,
    bits: float | None,
    max_kl: float | None,
    weights: int,
    latency: str | None = None,
) -> Limit | None:
    """The limit that the options ask for, of a model of so many weights; None without any.

    Raises:
        UsageError: more than one is given, the budget is no size, or the latency no time.
    """
    options = {"budget": budget, "bits": bits, "max_kl": max_kl, "latency": latency}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UsageError(
            "quantizer 'hybrid': give one of budget, bits, max_kl and latency, not "
            + " and ".join(given)
        )
    if latency is not None:
        return Limit(seconds=read_seconds(latency), words=f"latency={latency}")
    if budget is not None:
        return Limit(bytes=read_bytes(budget), words=f"budget={budget}")
    if bits is not None:
        return Limit(bytes=round(bits * weights / 8), words=f"bits={bits:g}")
    return None if max_kl is None else Limit(kl=max_kl, words=f"max_kl={max_kl:g}")


def read_schemes(text: str | None) -> tuple[str, ...]:
    """The schemes to choose among: those named, or `CHOICES`.

    Raises:
        UsageError: one does not exist, or none is named.
    """
    names = CHOICES if text is None else tuple(dict.fromkeys(text.split()))
    if not names:
        raise UsageError(
            "quantizer 'hybrid': option 'schemes' is empty: name some of " + ", ".join(SCHEMES)
        )
    return tuple(get_scheme(name).name for name in names)
