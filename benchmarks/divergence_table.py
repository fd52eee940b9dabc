"""Tables of `quantization_divergence.py`: divergences with intervals, and who is better at equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

ERRORS = 1.96
"""Standard errors on each side of a mean: an interval of 95 %."""

DRAWS = 2000

Floats = npt.NDArray[Any]


@attrs.frozen(kw_only=True, eq=False)
class Result:
    """What was measured of one quantized model.

    Attributes:
        name: of the model.
        bytes: of its weights.
        kl: nats a token, float64 `[texts, windows, tokens]`, with nothing but weights rounded.
        compiled: the same with the roundings of a compiled model; None where that was not measured.
    """

    name: str
    bytes: int
    kl: Floats
    compiled: Floats | None = None


def report(results: Sequence[Result], texts: Sequence[str], weights: int) -> str:
    """The tables, as Markdown, of models of so many weights."""
    parts = [divergence_table(results, texts, weights)]
    hybrids = [result for result in results if result.name.startswith("hybrid")]
    others = [result for result in results if result not in hybrids]
    compared = comparison_table(hybrids, others, weights)
    return "\n\n".join(part for part in (*parts, compared) if part)


def divergence_table(results: Sequence[Result], texts: Sequence[str], weights: int) -> str:
    """The mean KL of each text and of all, smallest model first."""
    several = any(result.compiled is not None for result in results)
    heads = ["model", "bits", *texts, "all", *(["compiled"] if several else [])]
    rows = []
    for result in sorted(results, key=lambda result: result.bytes):
        cells = [result.name, f"{8 * result.bytes / weights:.2f}"]
        cells += [f"{value:.4f}" for value in result.kl.mean(axis=(1, 2))]
        cells.append(mean_words(result.kl))
        if several:
            cells.append("" if result.compiled is None else mean_words(result.compiled))
        rows.append(cells)
    return _markdown(heads, rows)


def comparison_table(hybrids: Sequence[Result], others: Sequence[Result], weights: int) -> str:
    """Each other model against the largest hybrid one that has no more bytes; empty without any."""
    rows = []
    for other in sorted(others, key=lambda result: result.bytes):
        fitting = [result for result in hybrids if result.bytes <= other.bytes]
        if not fitting:
            continue
        ours = max(fitting, key=lambda result: result.bytes)
        lower = int((ours.kl.mean(axis=(1, 2)) < other.kl.mean(axis=(1, 2))).sum())
        low, ratio, high = ratio_interval(ours.kl, other.kl)
        bits = " against ".join(f"{8 * each.bytes / weights:.2f}" for each in (ours, other))
        words = f"{ratio:.2f} ({low:.2f} to {high:.2f})"
        rows.append([other.name, ours.name, bits, f"{lower} of {len(ours.kl)}", words])
    heads = ["model", "beside", "bits", "texts with less KL", "KL, as a part of the model's"]
    return _markdown(heads, rows) if rows else ""


def mean_words(kl: Floats) -> str:
    """The mean over all tokens and its interval, of windows as independent."""
    means = kl.mean(axis=2).ravel()
    error = float(means.std(ddof=1)) / len(means) ** 0.5 if len(means) > 1 else 0.0
    return f"{kl.mean():.4f} ± {ERRORS * error:.4f}"


def ratio_interval(ours: Floats, theirs: Floats, seed: int = 0) -> tuple[float, float, float]:
    """The ratio of two means with its interval of 95 %: a paired bootstrap over windows."""
    pair = np.stack([each.mean(axis=2).ravel() for each in (ours, theirs)])
    generator = np.random.default_rng(seed)
    drawn = generator.integers(pair.shape[1], size=(DRAWS, pair.shape[1]))
    sums = pair[:, drawn].sum(axis=2)
    low, high = np.quantile(sums[0] / sums[1], [0.025, 0.975])
    return float(low), float(pair[0].sum() / pair[1].sum()), float(high)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
