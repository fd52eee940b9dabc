"""From result files of routers to regret: what a router loses against one that knows the label.

Written B for the bits per byte of the right answers given their prompts. B of a group of benchmarks is
the mean over them of each one's bits per byte, so that long answers of one benchmark do not drown the
others. Intervals are of a bootstrap of the items within each benchmark, with the same draw for base,
oracle and router, so that what is hard for all of them drops out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from gem_study.routing_f1 import domain_f1
from gem_study.routing_records import (
    BenchmarkScores,
    GroupScores,
    Routed,
    RouterScores,
    RoutingStudy,
)
from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import RESAMPLES, Estimate, Floats, estimate
from gem_tradeoff.results import CORPUS, Task, bits_score, has_bits
from gem_tradeoff.scores import DOMAINS, match, resampled_scores
from gemcore.errors import UsageError, unknown_name

TEXT_TYPES = (CORPUS, "lm_perplexity")
"""Tasks in which a text is scored that answers nothing."""

LEAST_GAIN = 0.001
"""Regret is a share of what the oracle gains; less than this share of the base's bits is nothing."""

WORSE = 0.005
"""A benchmark counts as worse than the base where it takes this share more bits."""

KNOWN, LEFT_OUT = "known", "left out"


def study_routing(
    base: Routed,
    oracle: Routed,
    routers: Sequence[Routed],
    *,
    left_out: Collection[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RoutingStudy:
    """Set every router against the base model and against the oracle.

    Args:
        base: the model without experts.
        oracle: each item with the expert of its domain alone.
        routers: what is measured; `static` ones are also one expert that always works.
        left_out: benchmarks that experts and routers were not trained on.

    Raises:
        UsageError: files that do not belong together, no answers, or unknown benchmarks.
        FormatError: a file's items cannot be scored.
    """
    subjects = [base, oracle, *routers]
    missing, lacking = _lacking(subjects)
    tables = match([one.results for one in subjects], leave_out=lacking)
    answers = [n for n, t in tables[0].items() if t.task_type not in TEXT_TYPES and has_bits(t)]
    if not answers:
        raise UsageError(f"{base.results.name} has no tasks with right answers")
    for name in left_out:
        if name not in tables[0]:
            raise unknown_name("benchmark", name, tables[0])
    rows = {
        name: resampled_scores([t[name] for t in tables], bits_score, resamples, seed)
        for name, task in tables[0].items()
        if has_bits(task)
    }
    groups = {
        KNOWN: [name for name in answers if name not in left_out],
        LEFT_OUT: [name for name in answers if name in left_out],
    }
    scores = tuple(
        _router(one, number, tables, rows, groups, (resamples, seed))
        for number, one in enumerate(routers, start=2)
    )
    singles = [one for one in scores if one.always]
    return RoutingStudy(
        model=base.results.model,
        groups={kind: tuple(names) for kind, names in groups.items() if names},
        routers=scores,
        oracle=_router(oracle, 1, tables, rows, groups, (resamples, seed)),
        best_single=_best(singles, rows, answers, [one.label for one in subjects]),
        missing=tuple(missing),
        resamples=resamples,
        seed=seed,
    )


def regret(base: Floats, oracle: Floats, routed: Floats, names: str = "the oracle") -> Cell:
    """`(B_routed - B_oracle) / (B_base - B_oracle)` with its interval: 0 like the oracle, 1 like the base.

    Below 0 the router is better than one expert per domain. Where the oracle's own gain, or the lower
    end of its interval, is below `LEAST_GAIN` of the base's bits, there is nothing to divide by: the
    quotient's interval has no end there (Fieller, Some problems in interval estimation, 1954).

    Args:
        base, oracle, routed: `[1 + resamples]`, row 0 of the sample itself.
        names: what messages call the oracle.
    """
    gain = estimate((base - oracle) / base)
    if min(gain.value, gain.low) < LEAST_GAIN:
        return Undefined(
            f"{names} gains {100 * gain.value:.2f} % ({100 * gain.low:.2f} to {100 * gain.high:.2f}) of "
            f"the base's bits per byte, too little to divide by (the interval must lie above "
            f"{100 * LEAST_GAIN:g} %): score more items"
        )
    # At most 2.5 % of the resamples are below this, for the interval was checked.
    return estimate((routed - oracle) / np.maximum(base - oracle, LEAST_GAIN * base))


def change(base: Floats, routed: Floats) -> Estimate:
    """`(B_routed - B_base) / B_base` with its interval: below 0, fewer bits than the base."""
    return estimate((routed - base) / base)


def _router(
    one: Routed,
    number: int,
    tables: Sequence[Mapping[str, Task]],
    rows: Mapping[str, Floats],
    groups: Mapping[str, Sequence[str]],
    draw: tuple[int, int],
) -> RouterScores:
    tasks = tables[number]
    benchmarks = tuple(
        BenchmarkScores(
            name=name,
            domain=tasks[name].domain,
            kind=_kind(tasks[name], name in groups[LEFT_OUT]),
            base=estimate(values[:, 0]),
            routed=estimate(values[:, number]),
            change=change(values[:, 0], values[:, number]),
        )
        for name, values in rows.items()
    )
    worse = [b for b in benchmarks if b.kind == LEFT_OUT and b.change.value > WORSE]
    return RouterScores(
        label=one.label,
        always=one.always,
        file=one.results.name,
        all={kind: _group(rows, names, number) for kind, names in groups.items() if names},
        domains={
            kind: {
                domain: _group(rows, [n for n in names if tasks[n].domain == domain], number)
                for domain in _domains(tasks, names)
            }
            for kind, names in groups.items()
            if names
        },
        benchmarks=benchmarks,
        worse=tuple(b.name for b in worse),
        surely_worse=tuple(b.name for b in worse if b.change.low > WORSE),
        f1={
            kind: domain_f1([tasks[name] for name in names], one.experts, *draw)
            for kind, names in groups.items()
            if names
        },
    )


def _kind(task: Task, left_out: bool) -> str:
    if task.task_type in TEXT_TYPES:
        return "text"
    return LEFT_OUT if left_out else KNOWN


def _domains(tasks: Mapping[str, Task], names: Sequence[str]) -> list[str]:
    found = dict.fromkeys(tasks[name].domain for name in names)
    return sorted(found, key=lambda d: DOMAINS.index(d) if d in DOMAINS else len(DOMAINS))


def _group(rows: Mapping[str, Floats], names: Sequence[str], number: int) -> GroupScores:
    values = pooled(rows, names)
    base, oracle, routed = values[:, 0], values[:, 1], values[:, number]
    return GroupScores(
        benchmarks=tuple(names),
        base=estimate(base),
        oracle=estimate(oracle),
        routed=estimate(routed),
        oracle_change=change(base, oracle),
        change=change(base, routed),
        regret=regret(base, oracle, routed),
    )


def pooled(rows: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    """The mean over benchmarks of their bits per byte, `[1 + resamples, models]`."""
    return np.asarray(np.mean([rows[name] for name in names], axis=0))


def _best(
    singles: Sequence[RouterScores],
    rows: Mapping[str, Floats],
    answers: Sequence[str],
    labels: Sequence[str],
) -> str | None:
    """The label of the expert that, always on, takes the fewest bits over all benchmarks."""
    values = pooled(rows, answers)[0]
    return min(
        (one.label for one in singles), key=lambda label: values[labels.index(label)], default=None
    )


def _lacking(subjects: Sequence[Routed]) -> tuple[list[str], list[str]]:
    """Tasks that are not in every file, in words and by name."""
    every = dict.fromkeys(name for one in subjects for name in one.results.tasks)
    lacking = {
        name: [one.label for one in subjects if name not in one.results.tasks] for name in every
    }
    lacking = {name: labels for name, labels in lacking.items() if labels}
    words = [
        f"task '{name}' is left out: {', '.join(labels)} has no result of it"
        for name, labels in lacking.items()
    ]
    return words, list(lacking)
