"""Tables of a study, with words around them: once for the terminal, once as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import click

from gem_study.markup import STYLE, row
from gem_study.text import aligned
from gem_tradeoff.analysis import Cell
from gem_tradeoff.bootstrap import Estimate
from gem_tradeoff.words import gain_words, plain_words
from gemcore.page import add, add_table, new_page, written

Words = tuple[str, str]
"""A value and its interval; the second is empty where there is none."""

NOTHING: Words = ("-", "")


@attrs.frozen(kw_only=True)
class Table:
    """Rows of values with their intervals.

    Attributes:
        heads: the first is that of the rows' titles.
        rows: a title and as many cells as there are further heads.
        notes: sentences below it, without a full stop.
        long: shown on the page alone, folded away.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Words, ...]], ...]
    notes: tuple[str, ...] = ()
    long: bool = False


@attrs.frozen(kw_only=True)
class Report:
    """A study as people read it.

    Attributes:
        title: heading of the page and first line in the terminal.
        lead: what everything is measured in.
        meanings: of the words.
    """

    title: str
    lead: str
    tables: tuple[Table, ...]
    meanings: Mapping[str, str]


def report_lines(report: Report) -> Iterator[str]:
    """The report for the terminal, with styles as click writes them."""
    yield click.style(report.title, bold=True)
    yield report.lead
    for part in report.tables:
        if part.long:
            continue
        yield ""
        yield click.style(part.title, bold=True)
        rows = [list(part.heads)]
        for title, cells in part.rows:
            rows.append([title, *(value for value, _ in cells)])
            if any(interval for _, interval in cells):
                rows.append(["", *(interval for _, interval in cells)])
        yield from aligned(rows)
        for note in part.notes:
            yield click.style(note, fg="yellow")


def report_page(report: Report) -> str:
    """The report as one HTML page that needs nothing else."""
    html, body = new_page(report.title, STYLE)
    add(body, "h1", report.title)
    add(body, "p", f"{report.lead}.", class_="faint")
    for part in report.tables:
        section = add(body, "section")
        add(section, "h2", part.title)
        place = section
        if part.long:
            place = add(section, "details")
            add(place, "summary", f"{len(part.rows)} rows")
        rows = add_table(place, part.heads, "list")
        for title, cells in part.rows:
            row(rows, title, cells)
        for note in part.notes:
            add(section, "p", f"{note}.", class_="faint")
    add(body, "h2", "What the words mean")
    meanings = add(body, "dl")
    for word, meaning in report.meanings.items():
        add(meanings, "dt", word)
        add(meanings, "dd", meaning)
    return written(html)


def bits_words(cell: Estimate) -> Words:
    """Bits per byte and their interval."""
    return plain_words(cell, digits=4)


def share_words(cell: Cell, digits: int = 2) -> Words:
    """A share with its sign, in percent, and its interval."""
    return gain_words(cell, digits)


def part_words(cell: Cell, digits: int = 1) -> Words:
    """A part of a whole, in percent without a sign for what is above 0, and its interval."""
    value, interval = gain_words(cell, digits)
    return value.removeprefix("+"), interval.replace("+", "")


def number_words(cell: Cell, digits: int = 3) -> Words:
    """A plain number and its interval."""
    return plain_words(cell, digits=digits) if isinstance(cell, Estimate) else ("undefined", "")
