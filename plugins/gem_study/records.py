"""What a study of compression says, as records and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import Estimate
from gem_tradeoff.results import ResultFile
from gem_tradeoff.scores import Variant

VERSION = 1
"""Of the definitions: numbers of different versions must not be compared."""

CORRELATED = ("brittleness", "worst_loss", "mean_loss")
"""What compression is correlated with."""


@attrs.frozen(kw_only=True)
class ModelSize:
    """How large a model's weights are.

    Attributes:
        bytes: of the weights; None where nobody says.
        bits_per_weight: of the linear weights, scales included; None where nobody says.
    """

    bytes: int | None = None
    bits_per_weight: float | None = None


@attrs.frozen(kw_only=True, eq=False)
class Measured:
    """One precision that went through the suite.

    Attributes:
        label: the precision, as users type it; no two of a study are alike.
        results: of the suite.
        size: of the model.
    """

    label: str
    results: ResultFile = attrs.field(repr=False)
    size: ModelSize = ModelSize()


@attrs.frozen(kw_only=True)
class Precision:
    """One precision of a study.

    Attributes:
        compression: how many times smaller than the reference its weights are; None: not known.
        file: path of its result file.
    """

    label: str
    size: ModelSize
    compression: float | None
    file: str


@attrs.frozen(kw_only=True)
class PrecisionScores:
    """What one precision costs, in one variant.

    Attributes:
        label: of the precision.
        scores: of every domain.
        differences: of the scores, this precision's less the reference's.
        gains: differences as shares of the reference's score, above 0 where it is better.
        mean: of the gains.
        spread, noise: standard deviation over domains of the gains, and what part of it the number of
            items explains; None where it is undefined.
        brittleness: `measures.brittleness`.
        worst_domain: the domain that lost most; empty where that is undefined.
        worst: its gain. The interval is that domain's own, not of the choice.
    """

    label: str
    scores: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    gains: Mapping[str, Cell]
    mean: Cell
    spread: float | None
    noise: float | None
    brittleness: Cell
    worst_domain: str
    worst: Cell


@attrs.frozen(kw_only=True)
class VariantStudy:
    """The study in one variant: scores of tasks, or bits per byte.

    Attributes:
        reference: the reference's scores.
        left_out: domains in which nothing can be divided by the reference's score, with the reason.
        precisions: all but the reference.
        correlations: of compression with each of `CORRELATED`, over the precisions.
    """

    variant: Variant
    domains: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]]
    reference: Mapping[str, Estimate]
    left_out: Mapping[str, str]
    precisions: tuple[PrecisionScores, ...]
    correlations: Mapping[str, Cell]


@attrs.frozen(kw_only=True)
class Study:
    """How compression moves each domain.

    Attributes:
        model: its name.
        precisions: the reference first.
        missing: what could not be looked at, as sentences without a full stop.
    """

    model: str
    precisions: tuple[Precision, ...]
    variants: tuple[VariantStudy, ...]
    missing: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def reference(self) -> str:
        """Label of the precision that the others are set against."""
        return self.precisions[0].label

    def to_json(self) -> dict[str, Any]:
        """Everything as values of JSON; what is undefined is an object with its reason."""
        return {
            "version": VERSION,
            "model": self.model,
            "reference": self.reference,
            "resamples": self.resamples,
            "seed": self.seed,
            "precisions": [attrs.asdict(precision) for precision in self.precisions],
            "variants": {part.variant.name: _variant_json(part) for part in self.variants},
            "missing": list(self.missing),
        }


def _variant_json(part: VariantStudy) -> dict[str, Any]:
    return {
        "unit": part.variant.unit,
        "lower_is_better": part.variant.lower_is_better,
        "domains": list(part.domains),
        "tasks": {domain: list(tasks) for domain, tasks in part.tasks.items()},
        "reference": _cells_json(part.reference),
        "left_out": dict(part.left_out),
        "precisions": [
            {
                "label": scores.label,
                "scores": _cells_json(scores.scores),
                "differences": _cells_json(scores.differences),
                "gains": _cells_json(scores.gains),
                "mean": _cell_json(scores.mean),
                "spread": scores.spread,
                "noise": scores.noise,
                "brittleness": _cell_json(scores.brittleness),
                "worst_domain": scores.worst_domain,
                "worst": _cell_json(scores.worst),
            }
            for scores in part.precisions
        ],
        "correlations": _cells_json(part.correlations),
    }


def _cells_json(cells: Mapping[str, Cell]) -> dict[str, Any]:
    return {name: _cell_json(cell) for name, cell in cells.items()}


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {"undefined": cell.reason} if isinstance(cell, Undefined) else attrs.asdict(cell)
