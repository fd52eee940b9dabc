"""HTML pages that need nothing else: no script, no font, no request; all text in them is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring


def new_page(title: str, style: str) -> tuple[Element, Element]:
    """A page with its head, and its empty body; `style` is CSS."""
    html = Element("html", {"lang": "en"})
    head = add(html, "head")
    add(head, "meta", charset="utf-8")
    # The browser itself then refuses whatever this page might ask for.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "meta", name="color-scheme", content="light dark")
    add(head, "title", title)
    add(head, "style", style)
    return html, add(html, "body")


def written(html: Element) -> str:
    """The page as text."""
    return "<!DOCTYPE html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def add(parent: Element, tag: str, text: str = "", **attributes: object) -> Element:
    """Add an element; `class_` stands for class, other underscores in names for hyphens."""
    names = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    child = SubElement(parent, tag, names)
    child.text = text or None
    return child


def add_table(parent: Element, heads: Sequence[str], kind: str = "") -> Element:
    """Add a table of a class, which scrolls where it is too wide; returns where the rows go."""
    # Reachable by keyboard, so that a narrow screen can scroll it.
    table = add(add(parent, "div", class_="scroll", tabindex="0"), "table")
    if kind:
        table.set("class", kind)
    row = add(add(table, "thead"), "tr")
    for head in heads:
        add(row, "th", head, scope="col")
    return add(table, "tbody")
