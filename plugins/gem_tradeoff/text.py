"""The trade-off in a terminal: the gain matrix, bars for each model, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from gem_tradeoff.analysis import (
    MEASURES,
    Cell,
    ModelTradeoff,
    Tradeoff,
    Undefined,
    VariantTradeoff,
)
from gem_tradeoff.bootstrap import Estimate
from gem_tradeoff.colour import diverging, ink, scale_limit
from gem_tradeoff.compare import Difference
from gem_tradeoff.words import (
    TITLES,
    UNDEFINED,
    gain_words,
    measure_words,
    name_words,
    percent,
    plain_words,
)

BAR = 12
"""Characters on each side of a bar's zero."""

Table = list[list[str]]


def tradeoff_lines(report: Tradeoff, width: int = 80) -> Iterator[str]:
    """The whole report, with colours as click styles them.

    Args:
        width: of the terminal; the matrix numbers its columns where their names do not fit.
    """
    yield f"base {report.base}; 95 % intervals of {report.resamples} paired resamples"
    for part in report.variants:
        sense = "fewer are better" if part.variant.lower_is_better else "more is better"
        yield ""
        yield click.style(f"{part.variant.title} ({part.variant.unit}, {sense})", bold=True)
        yield ""
        limit = scale_limit([cell.value for cell in _known(part)])
        yield from _matrix(part, limit, width)
        yield ""
        for model in part.models:
            yield from _bars(model, limit, part.variant.digits)
            yield ""
        yield from _measures(part, width)
        for reason in part.reasons:
            yield click.style(f"{UNDEFINED}: {reason}", fg="yellow")
    for sentence in report.missing:
        yield ""
        yield click.style(f"not shown: {sentence}", fg="yellow")


def comparison_lines(rows: Sequence[Difference]) -> Iterator[str]:
    """A table of differences for each level, and how many of them chance alone would give."""
    several = len({row.other for row in rows}) > 1
    for level in ("task", "domain"):
        part = [row for row in rows if row.level == level]
        if not part:
            continue
        header = [level, "metric", "before", "after", "difference", "95 % interval", "", "p"]
        table = [header + ["file"] * several]
        for row in part:
            change, interval = plain_words(row.difference, digits=4, sign=True)
            verdict = {True: "better", False: "worse", None: ""}[row.better]
            p = "" if row.p is None else f"{row.p:.3f}"
            line = [row.name, row.metric, f"{row.before:.4f}", f"{row.after:.4f}", change]
            table.append(line + [interval, verdict, p] + [row.other] * several)
        yield from _table(table, left={0, 1, 6, 8})
        clear = sum(row.better is not None for row in part)
        yield (
            f"{clear} of {len(part)} intervals exclude 0; of {len(part)} about "
            f"{0.05 * len(part):.1f} would by chance alone"
        )
        yield ""


def _matrix(part: VariantTradeoff, limit: float, width: int) -> Iterator[str]:
    """Gains in percent, a row for each model, a column for each domain."""
    first = max(len("specialised for"), *(len(name_words(m.label)) for m in part.models))
    heads = [name_words(name) for name in part.domains]
    cell = max(9, *(len(head) for head in heads))
    numbered = first + (cell + 1) * len(heads) > width
    if numbered:
        heads, cell = [str(number) for number in range(1, len(heads) + 1)], 7
    yield click.style("gain over the base, %", bold=True)
    yield " ".join(["specialised for".ljust(first), *(head.rjust(cell) for head in heads)])
    for model in part.models:
        cells = [
            _matrix_cell(model.gains[name], limit, cell, part.variant.digits)
            for name in part.domains
        ]
        yield " ".join([name_words(model.label).ljust(first), *cells])
    if numbered:
        yield from _wrapped(
            [f"{n} {name_words(name)}" for n, name in enumerate(part.domains, start=1)], width
        )
    yield "* the interval excludes 0"


def _matrix_cell(cell: Cell, limit: float, width: int, digits: int) -> str:
    if isinstance(cell, Undefined):
        return "-".rjust(width)
    words = percent(cell.value, digits=digits) + ("*" if cell.excludes_zero else " ")
    background = diverging(cell.value, limit)
    return click.style(words.rjust(width), bg=background, fg=ink(background))


def _bars(model: ModelTradeoff, limit: float, digits: int) -> Iterator[str]:
    """A bar for each domain, with the interval in figures."""
    yield click.style(f"specialised for {name_words(model.label)}", bold=True)
    longest = max(len(name) for name in model.gains)
    for name, cell in model.gains.items():
        value, interval = gain_words(cell, digits)
        bar = " " * (2 * BAR + 1) if isinstance(cell, Undefined) else _bar(cell.value, limit)
        mark = ">" if name == model.domain else " "
        yield f"{mark} {name_words(name).ljust(longest)} {bar} {value:>9}  {interval}".rstrip()


def _bar(value: float, limit: float) -> str:
    length = round(BAR * min(1.0, abs(value) / limit))
    fill = click.style("█" * length, fg=diverging(limit if value > 0 else -limit, limit))
    space = " " * (BAR - length)
    return " " * BAR + "│" + fill + space if value > 0 else space + fill + "│" + " " * BAR


def _measures(part: VariantTradeoff, width: int) -> Iterator[str]:
    """A line for each model, or one for each measure where that is too wide."""
    wide: Table = [["specialised for", *(TITLES[name] for name in MEASURES)]]
    long: Table = [["specialised for", "measure", "value", "95 % interval"]]
    for model in part.models:
        label = name_words(model.label)
        words = [
            measure_words(name, model.measures[name], part.variant.digits) for name in MEASURES
        ]
        wide.append([label, *(value for value, _ in words)])
        wide.append(["", *(interval for _, interval in words)])
        for name, (value, interval) in zip(MEASURES, words, strict=True):
            long.append([label, TITLES[name], value, interval])
            label = ""
    lines = list(_table(wide, left={0}))
    fits = all(len(click.unstyle(line)) <= width for line in lines)
    yield from lines if fits else _table(long, left={0, 1})


def _table(rows: Table, left: set[int]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [
            word.ljust(width) if column in left else word.rjust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        yield click.style(line, bold=True) if number == 0 else line


def _wrapped(words: Sequence[str], width: int) -> Iterator[str]:
    line = ""
    for word in words:
        longer = f"{line}, {word}" if line else word
        if line and len(longer) >= width:
            yield line + ","
            longer = word
        line = longer
    yield line


def _known(part: VariantTradeoff) -> list[Estimate]:
    cells = [cell for model in part.models for cell in model.gains.values()]
    return [cell for cell in cells if not isinstance(cell, Undefined)]
