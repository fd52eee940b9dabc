"""The table at the end of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HEADING = ("task", "domain", "metric", "value", "chance", "items", "bits per byte")
_LEFT = 3
"""Columns of words; the others are numbers."""


def result_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The scores of a result file as lines of text, then each domain's mean, then what failed."""
    rows = [_row(results, name) for name in results["results"]]
    if rows:
        yield from _aligned([HEADING, *rows])
    means = domain_means(results)
    if means:
        yield ""
        yield "Mean of (value - chance) / (1 - chance), corpora and perplexity left out:"
        cells = [
            (domain, f"{mean:.3f}", "1 task" if count == 1 else f"{count} tasks")
            for domain, (mean, count) in means.items()
        ]
        yield from (f"  {line}" for line in _aligned(cells, left=1))
    cut = {name: count for name, count in results["truncated"].items() if count}
    if cut:
        yield ""
        listed = ", ".join(f"{name} {count}" for name, count in cut.items())
        yield f"Texts longer than the context, which lost their beginning: {listed}"


def domain_means(results: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    """For each domain the mean of its tasks' chance-normalised main scores, and how many they are.

    A score of 0 is what a guess gets, 1 is perfect. Tasks of which less is better have no chance
    level, and are left out.
    """
    scores: dict[str, list[float]] = {}
    for name, config in results["configs"].items():
        if config["higher_is_better"]:
            value = results["results"][name][f"{config['main_metric']},none"]
            chance = config["chance"]
            scores.setdefault(config["domain"], []).append((value - chance) / (1 - chance))
    return {
        domain: (math.fsum(values) / len(values), len(values)) for domain, values in scores.items()
    }


def _row(results: Mapping[str, Any], name: str) -> tuple[str, ...]:
    config, values = results["configs"][name], results["results"][name]
    metric = config["main_metric"]
    error = values[f"{metric}_stderr,none"]
    spread = f" ± {error:.3f}" if isinstance(error, float) else ""
    bits = values.get("bits_per_byte,none")
    return (
        name,
        config["domain"],
        metric,
        f"{values[f'{metric},none']:.3f}{spread}",
        f"{config['chance']:.3f}" if config["higher_is_better"] else "",
        str(results["n-samples"][name]["effective"]),
        "" if bits is None else f"{bits:.3f}",
    )


def _aligned(rows: Sequence[Sequence[str]], left: int = _LEFT) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
