"""How a study's numbers are written, in the terminal as on the page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gem_study.records import Precision, PrecisionScores
from gem_tradeoff.analysis import Cell
from gem_tradeoff.words import gain_words, name_words, percent

CORRELATION_TITLES: Mapping[str, str] = MappingProxyType(
    {"brittleness": "brittleness", "worst_loss": "worst loss", "mean_loss": "mean loss"}
)

MEASURE_HEADS = ("mean change", "brittleness", "spread", "noise", "worst domain")

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "Change": "What a precision scores less what the reference scores, in % of the reference's "
        "score, turned so that above 0 is better. It is given as a difference in the scores table.",
        "Spread": "The standard deviation of the changes over the domains. It is 0 where every domain "
        "loses the same share.",
        "Noise": "The spread that the number of items gives by itself, by the bootstrap.",
        "Brittleness": "The spread with the noise taken off: sqrt(max(0, spread² - noise²)). How "
        "unevenly over the domains compression costs; 0 is evenly.",
        "Worst domain": "The domain that lost most. Its interval is its own; as the worst of several, "
        "it looks a little worse than it is.",
        "Compression": "How many times fewer bytes the weights take than the reference's.",
        "Rank correlation": "Spearman's, of compression with a measure, over the precisions without "
        "the reference: 1 where every step of compression makes it larger. The interval is over the "
        "items, and says nothing of precisions that were not measured.",
    }
)


def size_words(precision: Precision) -> tuple[str, str, str]:
    """Megabytes, bits a weight, compression; a hyphen where nobody says."""
    size = precision.size
    return (
        "-" if size.bytes is None else f"{size.bytes / 1e6:.1f}",
        "-" if size.bits_per_weight is None else f"{size.bits_per_weight:.2f}",
        "-" if precision.compression is None else f"{precision.compression:.2f}",
    )


def scores_words(scores: PrecisionScores, digits: int) -> list[tuple[str, str]]:
    """The cells under `MEASURE_HEADS`, each with its interval."""
    worst, interval = gain_words(scores.worst, digits)
    name = f"{name_words(scores.worst_domain)} " if scores.worst_domain else ""
    return [
        gain_words(scores.mean, digits),
        share_words(scores.brittleness, digits),
        (_share(scores.spread, digits), ""),
        (_share(scores.noise, digits), ""),
        (f"{name}{worst}", interval),
    ]


def share_words(cell: Cell, digits: int) -> tuple[str, str]:
    """A share that is never below 0, in percent, and its interval."""
    value, interval = gain_words(cell, digits)
    return value.removeprefix("+"), interval.replace("+", "")


def _share(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{percent(value, digits=digits, sign=False)} %"
