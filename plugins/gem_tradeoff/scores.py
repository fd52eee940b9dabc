"""From checked result files to scores of domains, for every model and every resample at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import attrs
import numpy as np

from gem_tradeoff.bootstrap import RESAMPLES, Floats, item_weights, quotients
from gem_tradeoff.results import (
    CORPUS,
    ResultFile,
    Score,
    Task,
    bits_score,
    has_bits,
    main_score,
)
from gemcore.errors import FormatError, GemError, UsageError, unknown_name

DOMAINS = (
    "healthcare",
    "law",
    "finance",
    "stem",
    "commonsense",
    "conversational",
    "multilingual",
    "domain_adaptive",
)
"""The order in which the suite's domains are shown; others follow in the order of the file."""


@attrs.frozen(kw_only=True)
class Variant:
    """One way to score a domain.

    Attributes:
        title: for people.
        unit: of a score.
        lower_is_better: the sense of a score.
        digits: decimals that a percentage is shown with; the precision of the variant.
        takes: whether a task counts.
        score: what of a task counts.
        lacking: what is missing where no task counts.
    """

    name: str
    title: str
    unit: str
    lower_is_better: bool
    digits: int
    takes: Callable[[Task], bool]
    score: Callable[[Task], Score]
    lacking: str


def _is_scored_task(task: Task) -> bool:
    return task.task_type != CORPUS and task.higher_is_better


def _has_answers(task: Task) -> bool:
    return task.task_type != CORPUS and has_bits(task)


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant(
                name="task",
                title="Tasks",
                unit="score above chance",
                lower_is_better=False,
                digits=1,
                takes=_is_scored_task,
                score=main_score,
                lacking="tasks whose main metric is a score",
            ),
            Variant(
                name="text",
                title="Held-out text",
                unit="bits per byte",
                lower_is_better=True,
                digits=2,
                takes=lambda task: task.task_type == CORPUS,
                score=bits_score,
                lacking="held-out text (tasks corpus_DOMAIN)",
            ),
            Variant(
                name="answer",
                title="Right answers",
                unit="bits per byte",
                lower_is_better=True,
                digits=2,
                takes=_has_answers,
                score=bits_score,
                lacking="tasks whose items record bits and bytes of the right answer",
            ),
        )
    }
)
"""The variants by name: scores of tasks; bits per byte of held-out text, or of right answers."""


@attrs.frozen(kw_only=True, eq=False)
class DomainScores:
    """Scores of every model on every domain.

    Attributes:
        domains: their names, in order.
        tasks: the tasks behind each.
        values: float64 `[1 + resamples, models, domains]`; row 0 is the sample itself, the first
            model is the base.
    """

    variant: Variant
    domains: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]]
    values: Floats


def match(
    files: Sequence[ResultFile],
    *,
    domains: Collection[str] | None = None,
    leave_out: Collection[str] = (),
) -> list[dict[str, Task]]:
    """Check that files are of the same tasks, items and settings, so that they can be paired.

    Args:
        files: the first is the one that the others are compared with.
        domains: only tasks of these; None for all.
        leave_out: names of tasks that are not looked at.

    Returns:
        For each file its tasks by name, in the order of the first file.

    Raises:
        UsageError: a domain or task that is not there, or two files that differ.
    """
    known = {name for file in files for name in file.tasks}
    for name in leave_out:
        if name not in known:
            raise unknown_name("task", name, known)
    places = {task.domain for file in files for task in file.tasks.values()}
    for name in domains or ():
        if name not in places:
            raise unknown_name("domain", name, places)
    kept = [
        {
            name: task
            for name, task in file.tasks.items()
            if name not in leave_out and (domains is None or task.domain in domains)
        }
        for file in files
    ]
    for file, tasks in zip(files[1:], kept[1:], strict=True):
        _check_pair(files[0], kept[0], file, tasks)
    return [{name: tasks[name] for name in kept[0]} for tasks in kept]


def _check_pair(
    base: ResultFile, base_tasks: Mapping[str, Task], other: ResultFile, tasks: Mapping[str, Task]
) -> None:
    for key, value in base.settings.items():
        if other.settings[key] != value:
            raise UsageError(
                f"'{key}' is {value!r} in {base.name} but {other.settings[key]!r} in {other.name}: "
                "run both with the same settings"
            )
    for name in sorted(base_tasks.keys() ^ tasks.keys()):
        has, lacks = (base, other) if name in base_tasks else (other, base)
        raise UsageError(
            f"task '{name}' is in {has.name} but not in {lacks.name}: run it there too, or leave "
            f"it out (--leave-out {name})"
        )
    for name, task in base_tasks.items():
        _check_task(task, tasks[name])


def _check_task(task: Task, other: Task) -> None:
    for key, value in task.settings.items():
        if other.settings[key] != value:
            shown, others = (_short(v) for v in (value, other.settings[key]))
            raise UsageError(
                f"'{key}' is {shown} in {task.where} but {others} in {other.where}: run both with "
                "the same version, data and settings"
            )
    mine, theirs = set(task.documents), set(other.documents)
    if mine != theirs:
        odd = min(mine ^ theirs, key=str)
        raise UsageError(
            f"{task.where} has {len(mine)} items and {other.where} has {len(theirs)}, and item "
            f"{odd!r} is in one only: run both on the same items"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else text[:12] + "…"


def domain_scores(
    files: Sequence[ResultFile],
    variant: Variant,
    *,
    domains: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> DomainScores:
    """Score every domain: the mean over its tasks, each resampled by itself (stratified).

    A task's score s counts as `(s - chance) / (1 - chance)` in the variant "task", so that guessing
    is 0 and perfection 1, and as its bits per byte in the others. All models share each resample.

    Args:
        files: the base's first.
        resamples: how many bootstrap resamples of the items; 0 for none.

    Raises:
        UsageError: the files do not belong together, or no domain has a task of this variant.
        FormatError: a file's items cannot be scored.
    """
    tables = match(files, domains=domains, leave_out=leave_out)
    found: dict[str, list[str]] = {}
    for name, task in tables[0].items():
        if variant.takes(task):
            found.setdefault(task.domain, []).append(name)
    if not found:
        raise UsageError(f"{files[0].name} has no {variant.lacking}")
    order = sorted(found, key=lambda d: DOMAINS.index(d) if d in DOMAINS else len(DOMAINS))
    columns = [
        np.mean(
            [
                _task_scores(variant, [t[name] for t in tables], resamples, seed)
                for name in found[d]
            ],
            axis=0,
        )
        for d in order
    ]
    return DomainScores(
        variant=variant,
        domains=tuple(order),
        tasks={domain: tuple(found[domain]) for domain in order},
        values=np.stack(columns, axis=-1),
    )


def resampled_scores(
    tasks: Sequence[Task], score: Callable[[Task], Score], resamples: int, seed: int
) -> Floats:
    """Scores `[1 + resamples, models]` of one task, given as every model did it."""
    scores = [score(task) for task in tasks]
    weights = item_weights(tasks[0].name, len(tasks[0].samples), resamples, seed)
    return quotients(
        weights,
        np.stack([s.numerators for s in scores]),
        np.stack([s.denominators for s in scores]),
    )


def above_chance(task: Task, scores: Floats) -> Floats:
    """Scores rescaled so that guessing is 0 and perfection 1: `(score - chance) / (1 - chance)`.

    Raises:
        FormatError: the task states no chance level.
        GemError: a score is outside 0 to 1.
    """
    if task.chance is None:
        raise FormatError(f"{task.where}: field 'chance' of configs is missing")
    if scores.min() < 0 or scores.max() > 1:
        raise GemError(
            f"{task.where}: '{task.metric}' goes from {scores.min():g} to {scores.max():g}, but "
            "only scores from 0 to 1 can be set against chance: leave the task out "
            f"(--leave-out {task.name})"
        )
    return (scores - task.chance) / (1 - task.chance)


def _task_scores(variant: Variant, tasks: Sequence[Task], resamples: int, seed: int) -> Floats:
    scores = resampled_scores(tasks, variant.score, resamples, seed)
    return scores if variant.lower_is_better else above_chance(tasks[0], scores)
