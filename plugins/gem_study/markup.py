"""What the pages of all studies share: their style, and rows of values with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from gem_tradeoff.style import CSS
from gemcore.page import add

STYLE = CSS + "figure.wide { max-width: 32rem; } table.heat, table.list { min-width: 0; }\n"


def row(rows: Element, title: str, cells: Sequence[tuple[str, str]]) -> Element:
    """A row of values with their intervals; returns its heading."""
    line = add(rows, "tr")
    head = add(line, "th", title, scope="row")
    for value, interval in cells:
        place = add(line, "td", value)
        if interval:
            add(place, "small", interval)
    return head
