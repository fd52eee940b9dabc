"""Brittleness as a metric: one compressed model against its reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from gem_study.analysis import study_compression
from gem_study.records import VERSION, Measured
from gem_tradeoff.analysis import Undefined
from gem_tradeoff.results import ResultFile, parse_results, read_results
from gemcore.errors import GemError, UsageError
from gemcore.reports import MetricResult


@attrs.frozen(kw_only=True)
class Brittleness:
    """How unevenly over domains compression costs, as a share; see `measures.brittleness`.

    `compute` needs the names `reference` and `compressed`, each a result file's path or its content.
    """

    variant: str = "text"
    resamples: int = 2000
    seed: int = 0

    def compute(self, results: Mapping[str, Any]) -> MetricResult:
        """Compute it with its 95 % bootstrap interval over the items.

        Raises:
            UsageError: a name is missing, or the files do not belong together.
            FormatError: a file is no result file.
            GemError: it is undefined, for fewer than two domains can be used.
        """
        study = study_compression(
            [
                Measured(label=name, results=_results(results, name))
                for name in ("reference", "compressed")
            ],
            variants=[self.variant],
            resamples=self.resamples,
            seed=self.seed,
        )
        cell = study.variants[0].precisions[0].brittleness
        if isinstance(cell, Undefined):
            raise GemError(f"'brittleness' is undefined: {cell.reason}")
        return MetricResult(
            value=cell.value,
            low=cell.low,
            high=cell.high,
            higher_is_better=False,
            version=VERSION,
        )


def _results(results: Mapping[str, Any], name: str) -> ResultFile:
    if name not in results:
        raise UsageError(
            f"the metric needs '{name}', a result file or its content; given are "
            f"{', '.join(sorted(results)) or 'none'}"
        )
    value = results[name]
    return (
        read_results(Path(value)) if isinstance(value, str | Path) else parse_results(value, name)
    )
