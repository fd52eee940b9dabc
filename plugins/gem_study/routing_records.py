"""What a study of routing says, as records and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import Estimate
from gem_tradeoff.results import ResultFile

VERSION = 1
"""Of the definitions: numbers of different versions must not be compared."""


@attrs.frozen(kw_only=True, eq=False)
class Routed:
    """A model with a router that went through the suite.

    Attributes:
        label: the router, as users type it.
        results: of the suite.
        experts: by name the domain of each; none for the base.
        always: the expert that always works; None where the router chooses.
    """

    label: str
    results: ResultFile = attrs.field(repr=False)
    experts: Mapping[str, str] = attrs.Factory(dict)
    always: str | None = None


@attrs.frozen(kw_only=True)
class GroupScores:
    """Bits per byte over some benchmarks: each the mean over them.

    Attributes:
        benchmarks: their names.
        base, oracle, routed: bits per byte of the right answers.
        oracle_change, change: of oracle and router against the base, as shares; below 0 is better.
        regret: `gem_study.routing.regret`.
    """

    benchmarks: tuple[str, ...]
    base: Estimate
    oracle: Estimate
    routed: Estimate
    oracle_change: Estimate
    change: Estimate
    regret: Cell


@attrs.frozen(kw_only=True)
class BenchmarkScores:
    """One benchmark.

    Attributes:
        kind: "known", "left out" of training, or "text", which answers nothing and is in no group.
        change: against the base, as a share; below 0 is better.
    """

    name: str
    domain: str
    kind: str
    base: Estimate
    routed: Estimate
    change: Estimate


@attrs.frozen(kw_only=True)
class RouterScores:
    """What one router does.

    Attributes:
        label: the router, as users type it.
        always: the expert that always works; None where the router chooses.
        file: path of its result file.
        all: over all benchmarks, known ones and those left out of training.
        domains: the same by domain.
        worse: left-out benchmarks that take more than 0.5 % more bits than with the base.
        surely_worse: those of them whose interval lies above 0.5 %.
        f1: macro-F1 over domains of the expert with the prior's largest share.
    """

    label: str
    always: str | None
    file: str
    all: Mapping[str, GroupScores]
    domains: Mapping[str, Mapping[str, GroupScores]]
    benchmarks: tuple[BenchmarkScores, ...]
    worse: tuple[str, ...]
    surely_worse: tuple[str, ...]
    f1: Mapping[str, Cell]


@attrs.frozen(kw_only=True)
class RoutingStudy:
    """How routers fare between the base model and an oracle.

    Attributes:
        model: its name.
        groups: benchmarks by kind, "known" and "left out".
        routers: in the order in which they were named.
        oracle: the router that is told each item's domain.
        best_single: label of the router whose one expert, always on, takes fewest bits over all
            benchmarks; None where none was measured.
        missing: what could not be looked at, as sentences without a full stop.
    """

    model: str
    groups: Mapping[str, tuple[str, ...]]
    routers: tuple[RouterScores, ...]
    oracle: RouterScores
    best_single: str | None
    missing: tuple[str, ...]
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Everything as values of JSON; what is undefined is an object with its reason."""
        return {
            "version": VERSION,
            "model": self.model,
            "pooling": "mean over benchmarks of bits per byte of the right answers",
            "groups": {kind: list(names) for kind, names in self.groups.items()},
            "routers": [_router_json(one) for one in self.routers],
            "oracle": _router_json(self.oracle),
            "best_single": self.best_single,
            "missing": list(self.missing),
            "resamples": self.resamples,
            "seed": self.seed,
        }


def _router_json(one: RouterScores) -> dict[str, Any]:
    return {
        "router": one.label,
        "always": one.always,
        "file": one.file,
        "all": {kind: _group_json(group) for kind, group in one.all.items()},
        "domains": {
            kind: {domain: _group_json(group) for domain, group in groups.items()}
            for kind, groups in one.domains.items()
        },
        "benchmarks": [attrs.asdict(benchmark) for benchmark in one.benchmarks],
        "left_out_worse": list(one.worse),
        "left_out_surely_worse": list(one.surely_worse),
        "macro_f1": {kind: cell_json(cell) for kind, cell in one.f1.items()},
    }


def _group_json(group: GroupScores) -> dict[str, Any]:
    values = attrs.asdict(attrs.evolve(group, regret=Undefined("")))
    names = list(values.pop("benchmarks"))
    return {"benchmarks": names} | values | {"regret": cell_json(group.regret)}


def cell_json(cell: Cell) -> dict[str, Any]:
    """A number with its interval, or why there is none, as values of JSON."""
    return {"undefined": cell.reason} if isinstance(cell, Undefined) else attrs.asdict(cell)
