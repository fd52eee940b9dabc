"""A study in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from gem_study.records import CORRELATED, Study, VariantStudy
from gem_study.words import CORRELATION_TITLES, MEASURE_HEADS, scores_words, size_words
from gem_tradeoff.analysis import Undefined
from gem_tradeoff.words import name_words, percent, plain_words


def study_lines(study: Study, width: int = 80) -> Iterator[str]:
    """The whole study, with styles as click writes them.

    Args:
        width: of the terminal; the matrix numbers its columns where their names do not fit.
    """
    yield (
        f"compression of {study.model} against {study.reference}; 95 % intervals of "
        f"{study.resamples} paired resamples"
    )
    yield ""
    rows = [["precision", "MB", "bits a weight", "compression"]]
    rows += [[one.label, *size_words(one)] for one in study.precisions]
    yield from aligned(rows)
    for part in study.variants:
        sense = "fewer are better" if part.variant.lower_is_better else "more is better"
        yield ""
        yield click.style(f"{part.variant.title} ({part.variant.unit}, {sense})", bold=True)
        yield ""
        yield from _matrix(part, width)
        yield ""
        yield from _measures(part)
        yield ""
        yield from _correlations(part)
        for reason in dict.fromkeys(part.left_out.values()):
            yield click.style(f"left out: {reason}", fg="yellow")
    for sentence in study.missing:
        yield ""
        yield click.style(f"not shown: {sentence}", fg="yellow")


def _matrix(part: VariantStudy, width: int) -> Iterator[str]:
    """Changes in percent, a row for each precision, a column for each domain."""
    heads = [name_words(name) for name in part.domains]
    rows = [["change, %", *heads]]
    for scores in part.precisions:
        cells = [scores.gains[name] for name in part.domains]
        rows.append(
            [
                scores.label,
                *(
                    "-"
                    if isinstance(cell, Undefined)
                    else percent(cell.value, digits=part.variant.digits)
                    + ("*" if cell.excludes_zero else " ")
                    for cell in cells
                ),
            ]
        )
    lines = list(aligned(rows))
    if any(len(click.unstyle(line)) > width for line in lines):
        rows[0] = ["change, %", *(str(number) for number in range(1, len(heads) + 1))]
        lines = list(aligned(rows))
        yield from lines
        yield ", ".join(f"{number} {head}" for number, head in enumerate(heads, start=1))
    else:
        yield from lines
    yield "* the interval excludes 0"


def _measures(part: VariantStudy) -> Iterator[str]:
    rows = [["precision", *MEASURE_HEADS]]
    for scores in part.precisions:
        words = scores_words(scores, part.variant.digits)
        rows.append([scores.label, *(value for value, _ in words)])
        rows.append(["", *(interval for _, interval in words)])
    return aligned(rows)


def _correlations(part: VariantStudy) -> Iterator[str]:
    rows = [["rank correlation of compression with", "rho", "95 % interval"]]
    reasons = []
    for name in CORRELATED:
        cell = part.correlations[name]
        if isinstance(cell, Undefined):
            rows.append([CORRELATION_TITLES[name], "undefined", ""])
            reasons.append(cell.reason)
        else:
            rows.append([CORRELATION_TITLES[name], *plain_words(cell, digits=2, sign=True)])
    yield from aligned(rows)
    for reason in dict.fromkeys(reasons):
        yield click.style(f"undefined: {reason}", fg="yellow")


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right, the first row bold."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [
            word.rjust(width) if column else word.ljust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        yield click.style(line, bold=True) if number == 0 else line
