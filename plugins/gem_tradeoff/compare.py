"""Paired comparison of result files, task by task and domain by domain."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from gem_tradeoff.bootstrap import RESAMPLES, Estimate, Floats, estimate
from gem_tradeoff.results import ResultFile, Task, main_score
from gem_tradeoff.scores import VARIANTS, domain_scores, match, resampled_scores
from gemcore.errors import UsageError


@attrs.frozen(kw_only=True)
class Difference:
    """How another file differs from the first one, in one task or one domain.

    Attributes:
        name: of the task or the domain.
        level: "task" or "domain".
        metric: what is compared: a task's main metric, or the unit of a domain's score.
        other: path of the other file.
        before, after: the score in the first file and in the other one.
        difference: after - before.
        better: True or False where the interval excludes 0, by the metric's sense; else None.
        p: exact McNemar test of right against wrong items; None where items are not 0 or 1.
    """

    name: str
    level: str
    domain: str
    metric: str
    other: str
    before: float
    after: float
    difference: Estimate
    better: bool | None
    p: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as values of JSON."""
        return attrs.asdict(self)


def compare(
    files: Sequence[ResultFile],
    *,
    domains: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Difference, ...]:
    """Set every other file against the first: rows for all tasks, then for all domains.

    Differences are of the same items, resampled together, so that what is easy or hard for every
    model drops out (paired bootstrap, 95 % percentile interval).

    Raises:
        UsageError: fewer than two files, or files that do not belong together.
        FormatError: a file's items cannot be scored.
    """
    if len(files) < 2:
        raise UsageError(f"a comparison needs at least 2 result files, and there is {len(files)}")
    tables = match(files, domains=domains, leave_out=leave_out)
    rows = [
        row
        for name in tables[0]
        for row in _task_rows(files, [table[name] for table in tables], resamples, seed)
    ]
    for name in ("task", "text"):
        variant = VARIANTS[name]
        if not any(variant.takes(task) for task in tables[0].values()):
            continue
        scores = domain_scores(
            files, variant, domains=domains, leave_out=leave_out, resamples=resamples, seed=seed
        )
        for column, domain in enumerate(scores.domains):
            rows += _rows(
                files,
                scores.values[:, :, column],
                (domain, "domain", domain, variant.unit),
                lower_is_better=variant.lower_is_better,
            )
    return tuple(rows)


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value that as many items change one way as the other.

    McNemar, Note on the sampling error of the difference between correlated proportions (1947):
    under the null hypothesis, `won` of the `lost + won` changed items is binomial with 1/2.

    >>> mcnemar(1, 9)
    0.021484375
    """
    changed = lost + won
    tail = sum(math.comb(changed, k) for k in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / 2**changed))


def _task_rows(
    files: Sequence[ResultFile], tasks: Sequence[Task], resamples: int, seed: int
) -> Iterator[Difference]:
    task = tasks[0]
    values = resampled_scores(tasks, main_score, resamples, seed)
    what = (task.name, "task", task.domain, task.metric)
    rows = _rows(files, values, what, lower_is_better=not task.higher_is_better)
    for other, row in zip(tasks[1:], rows, strict=True):
        yield attrs.evolve(row, p=_mcnemar_of(task, other))


def _rows(
    files: Sequence[ResultFile],
    values: Floats,
    what: tuple[str, str, str, str],
    *,
    lower_is_better: bool,
) -> Iterator[Difference]:
    name, level, domain, metric = what
    for number, file in enumerate(files[1:], start=1):
        difference = estimate(values[:, number] - values[:, 0])
        rises = difference.value > 0
        yield Difference(
            name=name,
            level=level,
            domain=domain,
            metric=metric,
            other=file.name,
            before=float(values[0, 0]),
            after=float(values[0, number]),
            difference=difference,
            better=rises != lower_is_better if difference.excludes_zero else None,
        )


def _mcnemar_of(task: Task, other: Task) -> float | None:
    scores = [main_score(task), main_score(other)]
    for score in scores:
        if (score.denominators != 1).any() or not np.isin(score.numerators, (0, 1)).all():
            return None
    before, after = (score.numerators == 1 for score in scores)
    return mcnemar(int((before & ~after).sum()), int((~before & after).sum()))
