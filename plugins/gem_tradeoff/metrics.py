"""The measures as metrics: DSI, GG, CDTR and forgetting of one specialised model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from gem_tradeoff.analysis import VERSION, Undefined, analyse
from gem_tradeoff.results import ResultFile, parse_results, read_results
from gemcore.errors import GemError, UsageError
from gemcore.reports import MetricResult


@attrs.frozen
class TradeoffMetric:
    """One measure, by its name in `analysis.MEASURES`.

    `compute` needs the names `base` and `specialised`, each a result file's path or its content,
    and takes `domain` where the specialised file does not name its own. The definitions are GEM's
    (module `measures`); arXiv 2503.22698 names them.

    Attributes:
        higher_is_better: DSI and CDTR want to be high, GG and forgetting low.
    """

    measure: str
    higher_is_better: bool
    variant: str = "task"
    resamples: int = 2000
    seed: int = 0

    def compute(self, results: Mapping[str, Any]) -> MetricResult:
        """Compute the measure with its 95 % bootstrap interval.

        Raises:
            UsageError: a name is missing, or the files do not belong together.
            FormatError: a file is no result file.
            GemError: the measure is undefined, for a score is too near zero to divide by.
        """
        base, special = (_results(results, name) for name in ("base", "specialised"))
        found = analyse(
            base,
            [(special, results.get("domain"))],
            variants=[self.variant],
            resamples=self.resamples,
            seed=self.seed,
        )
        cell = found.variants[0].models[0].measures[self.measure]
        if isinstance(cell, Undefined):
            raise GemError(f"'{self.measure}' is undefined: {cell.reason}")
        return MetricResult(
            value=cell.value,
            low=cell.low,
            high=cell.high,
            higher_is_better=self.higher_is_better,
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


dsi = partial(TradeoffMetric, "dsi", True)
gg = partial(TradeoffMetric, "gg", False)
cdtr = partial(TradeoffMetric, "cdtr", True)
forgetting = partial(TradeoffMetric, "forgetting", False)
