"""Scored items into results: every metric of a benchmark with its standard error.

A mean's standard error is the sample standard deviation over the root of the number of items, as in
lm-evaluation-harness. Every other metric is a function of sums over items, so a bootstrap of the
items, seeded, is a matrix product.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from gem_suite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from gem_suite.records import Benchmark

    Floats = npt.NDArray[np.float64]
    Statistic = Callable[[Floats], Floats]

MEANS = ("acc", "acc_norm", "acc_bytes", "acc_calibrated", "mrr", "exact_match", "f1")
"""Metrics that are means over items, unless entities are counted."""

NO_ERROR = "N/A"
"""What stands for a standard error that cannot be had, as in lm-eval's files."""


def aggregate(
    benchmark: Benchmark,
    samples: Sequence[Mapping[str, Any]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The entry of a task under `results`.

    Args:
        benchmark: whose metrics are wanted.
        samples: what `gem_suite.scoring.score` returned, one an item.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `alias`, and for each metric `"<metric>,none"` and `"<metric>_stderr,none"`, the latter
        `NO_ERROR` where one item is all there is. Bits per byte come with every benchmark that has
        reference texts.

    Raises:
        TaskError: there is no item.
    """
    if not samples:
        raise TaskError(f"task '{benchmark.name}' has no items to score")
    results: dict[str, Any] = {"alias": benchmark.name}
    names = list(benchmark.metrics)
    if "bits_per_byte" not in names and any(sample.get("bytes") for sample in samples):
        names.append("bits_per_byte")
    for name in names:
        value, error = metric_value(name, samples, resamples=resamples, seed=seed)
        results[f"{name},none"] = value
        results[f"{name}_stderr,none"] = NO_ERROR if error is None else error
    return results


def metric_value(
    name: str, samples: Sequence[Mapping[str, Any]], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float | None]:
    """One metric over items, and its standard error; None for the error of a single item."""
    if name in MEANS and name in samples[0]:
        return mean_with_error([float(sample[name]) for sample in samples])
    columns, statistic = _COLUMNS[name](samples, name)
    value = float(statistic(columns.sum(axis=0)))
    if len(samples) < 2:
        return value, None
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(samples), [1 / len(samples)] * len(samples), size=resamples)
    # A resample of items that have no reference at all has no value; it says nothing.
    values = statistic(counts.astype(np.float64) @ columns)
    values = values[np.isfinite(values)]
    return value, float(values.std(ddof=1)) if len(values) > 1 else None


def mean_with_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation over the root of the count."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def _quotient(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerator / denominator, dtype=np.float64)


def _share(numerator: Floats, denominator: Floats) -> Floats:
    """A quotient that is zero where there is nothing to divide by."""
    return np.where(denominator > 0, _quotient(numerator, np.maximum(denominator, 1e-9)), 0.0)


def _bit_columns(samples: Sequence[Mapping[str, Any]], name: str) -> tuple[Floats, Statistic]:
    unit = "words" if name == "word_perplexity" else "bytes"
    columns = np.array(
        [[sample.get("bits", 0.0), sample.get(unit, 0)] for sample in samples], dtype=np.float64
    )

    def statistic(sums: Floats) -> Floats:
        per_unit = _quotient(sums[..., 0], sums[..., 1])
        return per_unit if name == "bits_per_byte" else np.exp2(per_unit)

    return columns, statistic


def _count_columns(samples: Sequence[Mapping[str, Any]], name: str) -> tuple[Floats, Statistic]:
    columns = np.array([sample["counts"] for sample in samples], dtype=np.float64)

    def statistic(sums: Floats) -> Floats:
        right, spurious, missed = sums[..., 0], sums[..., 1], sums[..., 2]
        if name == "precision":
            return _share(right, right + spurious)
        if name == "recall":
            return _share(right, right + missed)
        return _share(2 * right, 2 * right + spurious + missed)

    return columns, statistic


def _class_columns(samples: Sequence[Mapping[str, Any]], name: str) -> tuple[Floats, Statistic]:
    """Columns: for each class, right predictions, predictions, targets."""
    targets = np.array([sample["target"] for sample in samples])
    predictions = np.array([sample["prediction"] for sample in samples])
    classes = np.union1d(targets, predictions)
    is_target = targets[:, None] == classes
    is_prediction = predictions[:, None] == classes
    columns = np.concatenate([is_target & is_prediction, is_prediction, is_target], axis=1)

    def statistic(sums: Floats) -> Floats:
        right, predicted, wanted = np.split(sums, 3, axis=-1)
        scores = _share(2 * right, predicted + wanted)
        occurs = (predicted + wanted > 0).astype(np.float64)
        weights = wanted if name == "f1_weighted" else occurs
        return _share((scores * weights).sum(axis=-1), weights.sum(axis=-1))

    return columns.astype(np.float64), statistic


def _balanced_columns(samples: Sequence[Mapping[str, Any]], name: str) -> tuple[Floats, Statistic]:
    """Columns: for each class of each subdomain, right predictions and targets."""
    cells = sorted({(str(sample.get("group", "")), sample["target"]) for sample in samples})
    groups = [group for group, _ in cells]
    columns = np.zeros((len(samples), 2 * len(cells)))
    for row, sample in enumerate(samples):
        cell = cells.index((str(sample.get("group", "")), sample["target"]))
        columns[row, cell] = sample["prediction"] == sample["target"]
        columns[row, len(cells) + cell] = 1
    membership = np.array(
        [[group == other for other in dict.fromkeys(groups)] for group in groups], dtype=np.float64
    )

    def statistic(sums: Floats) -> Floats:
        right, wanted = np.split(sums, 2, axis=-1)
        recalls, occurs = _share(right, wanted), (wanted > 0).astype(np.float64)
        per_group = _share(recalls @ membership, occurs @ membership)
        present = (occurs @ membership > 0).astype(np.float64)
        return _share((per_group * present).sum(axis=-1), present.sum(axis=-1))

    return columns, statistic


_COLUMNS: Mapping[str, Callable[[Sequence[Mapping[str, Any]], str], tuple[Floats, Statistic]]] = (
    MappingProxyType(
        {
            "bits_per_byte": _bit_columns,
            "byte_perplexity": _bit_columns,
            "word_perplexity": _bit_columns,
            "f1": _count_columns,
            "precision": _count_columns,
            "recall": _count_columns,
            "f1_macro": _class_columns,
            "f1_weighted": _class_columns,
            "balanced_acc": _balanced_columns,
        }
    )
)
