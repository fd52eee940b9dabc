"""A study of routing in words and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from gem_study.report import (
    NOTHING,
    Report,
    Table,
    Words,
    bits_words,
    number_words,
    share_words,
)
from gem_study.routing_records import GroupScores, RouterScores, RoutingStudy
from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.words import name_words

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "Bits per byte": "Of the right answer given its prompt. Of several benchmarks it is the mean "
        "over them, each with its own bits per byte.",
        "Oracle": "The same model, told the domain of each item: the expert of that domain works, and "
        "no other.",
        "Regret": "(routed - oracle) / (base - oracle), in bits per byte: 0 is as good as the oracle, 1 "
        "as good as no experts; below 0 is better than one expert for each domain.",
        "Change": "Bits per byte less those of the base, as a share of them: below 0 is better.",
        "Left out": "Benchmarks that neither experts nor router were trained on.",
        "Worse": "Left-out benchmarks that take more than 0.5 % more bits than with the base; in "
        "brackets, those of which the interval lies above 0.5 %.",
        "Macro-F1": "Of the domain of the expert with the prior's largest share, over the domains, however "
        "much the prior leaves to the general path.",
    }
)

_HEADS = ("base", "oracle", "routed", "change", "regret")


def routing_report(study: RoutingStudy) -> Report:
    """The study as people read it."""
    return Report(
        title=f"Routing of {study.model}",
        lead=f"Bits per byte of right answers; 95 % intervals of {study.resamples} paired resamples of "
        "the items",
        tables=tuple(_tables(study)),
        meanings=MEANINGS,
    )


def _tables(study: RoutingStudy) -> Iterator[Table]:
    shown = [study.oracle, *study.routers]
    for kind, names in study.groups.items():
        rows = [(_title(one, study), _summary(one, kind)) for one in shown]
        yield Table(
            title=f"{_kind_words(kind)} ({len(names)})",
            heads=("router", *_HEADS, "macro-F1", "worse"),
            rows=tuple(rows),
            notes=(*_notes(shown, kind), *_single_note(study), *study.missing),
        )
    for one in study.routers:
        for kind, groups in one.domains.items():
            rows = [(name_words(domain), _cells(group)) for domain, group in groups.items()]
            reasons = (group.regret for group in groups.values())
            yield Table(
                title=f"{one.label}, {_kind_words(kind).lower()} by domain",
                heads=("domain", *_HEADS),
                rows=tuple(rows),
                notes=_reasons(reasons),
            )
    for one in study.routers:
        yield Table(
            title=f"{one.label}, every benchmark",
            heads=("benchmark", "domain", "kind", "base", "routed", "change"),
            rows=tuple(
                (
                    benchmark.name,
                    (
                        (name_words(benchmark.domain), ""),
                        (benchmark.kind, ""),
                        bits_words(benchmark.base),
                        bits_words(benchmark.routed),
                        share_words(benchmark.change),
                    ),
                )
                for benchmark in one.benchmarks
            ),
            long=True,
        )


def _title(one: RouterScores, study: RoutingStudy) -> str:
    return f"{one.label} (best single)" if one.label == study.best_single else one.label


def _kind_words(kind: str) -> str:
    return "Known benchmarks" if kind == "known" else "Benchmarks left out of training"


def _summary(one: RouterScores, kind: str) -> tuple[Words, ...]:
    worse = (f"{len(one.worse)} [{len(one.surely_worse)}]", "") if kind != "known" else NOTHING
    f1 = one.f1[kind]
    return (
        *_cells(one.all[kind]),
        NOTHING if isinstance(f1, Undefined) else number_words(f1),
        worse,
    )


def _cells(group: GroupScores) -> tuple[Words, ...]:
    return (
        bits_words(group.base),
        bits_words(group.oracle),
        bits_words(group.routed),
        share_words(group.change),
        number_words(group.regret),
    )


def _notes(shown: list[RouterScores], kind: str) -> tuple[str, ...]:
    worse = [
        f"{one.label}: more than 0.5 % worse than the base on {', '.join(one.worse)}"
        for one in shown
        if kind != "known" and one.worse
    ]
    return (*_reasons(one.all[kind].regret for one in shown), *worse)


def _single_note(study: RoutingStudy) -> tuple[str, ...]:
    if study.best_single is None:
        return ("the best single expert is not known: no router 'static' was measured",)
    return ()


def _reasons(cells: Iterator[Cell]) -> tuple[str, ...]:
    found = (cell.reason for cell in cells if isinstance(cell, Undefined))
    return tuple(f"undefined: {reason}" for reason in dict.fromkeys(found))
