"""What the pages of all studies are made of: HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from gem_tradeoff.figures import add
from gem_tradeoff.style import CSS

_STYLE = CSS + "figure.wide { max-width: 32rem; } table.heat, table.list { min-width: 0; }\n"


def new_page(title: str) -> tuple[Element, Element]:
    """A page and its body."""
    html = Element("html", {"lang": "en"})
    _head(html, title)
    return html, add(html, "body")


def written(html: Element) -> str:
    """The page as text."""
    return "<!DOCTYPE html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def _head(html: Element, title: str) -> None:
    head = add(html, "head")
    add(head, "meta", charset="utf-8")
    # The browser itself then refuses whatever this page might ask for.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "meta", name="color-scheme", content="light dark")
    add(head, "title", title)
    add(head, "style", _STYLE)


def row(rows: Element, title: str, cells: Sequence[tuple[str, str]]) -> Element:
    """A row of values with their intervals; returns its heading."""
    line = add(rows, "tr")
    head = add(line, "th", title, scope="row")
    for value, interval in cells:
        place = add(line, "td", value)
        if interval:
            add(place, "small", interval)
    return head


def table(section: Element, kind: str, heads: Sequence[str]) -> Element:
    """A table with its headings; returns where the rows go."""
    # Reachable by keyboard, so that a narrow screen can scroll it.
    scroll = add(section, "div", class_="scroll", tabindex="0")
    found = add(scroll, "table", class_=kind)
    line = add(add(found, "thead"), "tr")
    for head in heads:
        add(line, "th", head, scope="col")
    return add(found, "tbody")
