"""How numbers and names are written, in the terminal as on the page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import Estimate

UNDEFINED = "undefined"

TITLES: Mapping[str, str] = MappingProxyType(
    {"dsi": "DSI", "gg": "GG", "cdtr": "CDTR", "forgetting": "Forgetting"}
)

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "dsi": "Domain Specialization Index: the gain in the model's own domain less its mean gain "
        "in the others, in % of the base's score. Higher: more specialised.",
        "gg": "Generalization Gap: by how much the lead of the own domain over the others has grown, "
        "in the unit of the scores. Higher: a wider gap.",
        "cdtr": "Cross-Domain Transfer Ratio: the score in the other domains as a share of the "
        "base's, on average. 1: nothing lost; higher is better.",
        "forgetting": "The mean relative loss in the other domains, gains counted as 0. 0 % is none. "
        "Noise alone makes it a little more than 0.",
    }
)

_PERCENT = ("dsi", "forgetting")


def percent(share: float, *, digits: int = 1, sign: bool = True) -> str:
    """A share in percent: `+12.3`; never `-0.0`."""
    number = round(100 * share, digits) + 0.0
    return f"{number:{'+' if sign and number else ''}.{digits}f}"


def gain_words(cell: Cell, digits: int) -> tuple[str, str]:
    """A gain in percent and its interval; the second is empty where it is undefined."""
    if isinstance(cell, Undefined):
        return UNDEFINED, ""
    value, low, high = (percent(x, digits=digits) for x in (cell.value, cell.low, cell.high))
    return f"{value} %", f"{low} to {high}"


def measure_words(name: str, cell: Cell, digits: int) -> tuple[str, str]:
    """A measure and its interval, each in the form that suits it."""
    if isinstance(cell, Undefined):
        return UNDEFINED, ""
    if name in _PERCENT:
        sign = name == "dsi"
        value, low, high = (
            percent(x, digits=digits, sign=sign) for x in (cell.value, cell.low, cell.high)
        )
        return f"{value} %", f"{low} to {high}"
    return plain_words(cell, digits=digits + 2, sign=name == "gg")


def plain_words(cell: Estimate, *, digits: int = 3, sign: bool = False) -> tuple[str, str]:
    """A number with so many decimals, and its interval."""
    value, low, high = (
        f"{round(x, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
        for x in (cell.value, cell.low, cell.high)
    )
    return value, f"{low} to {high}"


def name_words(name: str) -> str:
    """A domain's name for people: `domain adaptive`."""
    return name.replace("_", " ")
