"""Priors alone: which domain a router expects of each prompt, without asking anything else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from gem_study.report import NOTHING, Report, Table, number_words, part_words
from gem_study.routing import KNOWN, LEFT_OUT
from gem_study.routing_f1 import domain_f1, likeliest
from gem_study.routing_records import VERSION, cell_json
from gem_study.routing_report import MEANINGS
from gem_suite.engines import CompiledEngine
from gem_suite.engines_text import Encoder, fit
from gem_suite.experts import expert_domains, prior_shares
from gem_suite.runner_tasks import load_planned, suite_plans
from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import estimate, item_weights
from gem_tradeoff.results import Task as Scored
from gem_tradeoff.words import name_words
from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from gem_study.subjects import Subject, Surroundings
    from gem_suite.runner_tasks import SuiteSettings
    from gem_suite.tasks import Task


@attrs.frozen(kw_only=True)
class RouterPriors:
    """How often the prior of one router names the right domain.

    Attributes:
        f1: macro-F1 by kind, "known" and "left out".
        right: by benchmark the share of items whose domain is named.
    """

    label: str
    f1: Mapping[str, Cell]
    right: Mapping[str, Cell]


@attrs.frozen(kw_only=True)
class PriorStudy:
    """How often priors name the right domain.

    Attributes:
        groups: benchmarks by kind, "known" and "left out".
        benchmarks: the domain of each.
    """

    model: str
    groups: Mapping[str, tuple[str, ...]]
    benchmarks: Mapping[str, str]
    routers: tuple[RouterPriors, ...]
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Everything as values of JSON."""
        return {
            "version": VERSION,
            "model": self.model,
            "groups": {kind: list(names) for kind, names in self.groups.items()},
            "benchmarks": dict(self.benchmarks),
            "routers": [
                {
                    "router": one.label,
                    "macro_f1": {kind: cell_json(cell) for kind, cell in one.f1.items()},
                    "right": {name: cell_json(cell) for name, cell in one.right.items()},
                }
                for one in self.routers
            ],
            "resamples": self.resamples,
            "seed": self.seed,
        }


def study_priors(
    subjects: Sequence[Subject],
    settings: SuiteSettings,
    surroundings: Surroundings,
    left_out: Collection[str],
    draw: tuple[int, int],
) -> PriorStudy:
    """Ask every router for the prior of every prompt.

    Args:
        subjects: the routers.
        settings: which items.
        surroundings: compiles models, and says what happens.
        left_out: benchmarks that were not trained on.
        draw: resamples of the items, and their seed.

    Raises:
        UsageError: no router has a prior, or no task a prompt.
    """
    tasks = [*_answers(settings)]
    if not tasks:
        raise UsageError("none of the tasks has prompts with right answers")
    names = [task.benchmark.name for task in tasks]
    groups = {
        KNOWN: tuple(name for name in names if name not in left_out),
        LEFT_OUT: tuple(name for name in names if name in left_out),
    }
    model = ""
    routers = []
    for number, subject in enumerate(subjects, start=1):
        surroundings.say(f"router {number} of {len(subjects)}, {subject.label}")
        session = surroundings.open(subject.recipe)
        model = session.bundle.manifest.model["name"]
        engine = CompiledEngine(session)
        if not engine.experts:
            surroundings.say(f"{subject.label} gives requests no prior")
            continue
        from gemcore.plugins import get_host

        experts = expert_domains(session.bundle.manifest, get_host())
        scored = {
            task.benchmark.name: _priors(engine, task, settings.chat_template) for task in tasks
        }
        routers.append(
            RouterPriors(
                label=subject.label,
                f1={
                    kind: domain_f1([scored[name] for name in chosen], experts, *draw)
                    for kind, chosen in groups.items()
                    if chosen
                },
                right={name: _right(one, experts, draw) for name, one in scored.items()},
            )
        )
    if not routers:
        raise UsageError("none of the routers has a prior: --prior-only is for those that have one")
    return PriorStudy(
        model=model,
        groups={kind: chosen for kind, chosen in groups.items() if chosen},
        benchmarks={task.benchmark.name: task.benchmark.domain for task in tasks},
        routers=tuple(routers),
        resamples=draw[0],
        seed=draw[1],
    )


def _answers(settings: SuiteSettings) -> Iterator[Task]:
    """The tasks that can be read and have prompts."""
    for plan in suite_plans(settings):
        try:
            task = load_planned(plan, settings)
        except GemError:
            continue
        if any(task.request(document).pairs for document in task.documents):
            yield task


def _priors(engine: CompiledEngine, task: Task, chat: bool) -> Scored:
    """The priors of a task's prompts, in the form of a result file's task."""
    encoder = Encoder(engine=engine, chat=chat)
    samples = []
    for document in task.documents:
        request = task.request(document)
        sample: dict[str, Any] = {"doc_id": document.index}
        if request.pairs:
            pair = encoder.pair(*request.pairs[0], request.system, request.delimiter)
            ((prior, _),) = engine.groups([fit(pair, engine.context_length)[0]])
            assert prior is not None
            sample["prior"] = prior_shares(prior, engine.experts)
        samples.append(sample)
    benchmark = task.benchmark
    return Scored(
        name=benchmark.name,
        where=f"task '{benchmark.name}'",
        domain=benchmark.domain,
        task_type=benchmark.task_type,
        metric=benchmark.metric,
        chance=None,
        higher_is_better=False,
        settings={},
        reported=0.0,
        samples=tuple(samples),
    )


def _right(task: Scored, experts: Mapping[str, str], draw: tuple[int, int]) -> Cell:
    import numpy as np

    asked = [sample for sample in task.samples if "prior" in sample]
    if task.domain not in experts.values() or len(asked) < 2:
        return Undefined(f"no expert is for {task.domain}, or fewer than 2 items were asked")
    hits = [float(likeliest(task, sample, experts) == task.domain) for sample in asked]
    weights = item_weights(task.name, len(hits), *draw)
    return estimate(weights @ np.array(hits) / len(hits))


def priors_report(study: PriorStudy) -> Report:
    """The study as people read it."""
    rows = []
    for one in study.routers:
        cells = [
            NOTHING if kind not in one.f1 else number_words(one.f1[kind]) for kind in study.groups
        ]
        rows.append((one.label, tuple(cells)))
    heads = [f"{kind} benchmarks ({len(names)})" for kind, names in study.groups.items()]
    benchmarks = [
        (
            name,
            (
                (name_words(domain), ""),
                *(_right_words(one.right[name]) for one in study.routers),
            ),
        )
        for name, domain in study.benchmarks.items()
    ]
    return Report(
        title=f"Priors of {study.model}",
        lead=f"Of each prompt alone; 95 % intervals of {study.resamples} resamples of the items",
        tables=(
            Table(title="Macro-F1", heads=("router", *heads), rows=tuple(rows)),
            Table(
                title="Items whose domain is named",
                heads=("benchmark", "domain", *(one.label for one in study.routers)),
                rows=tuple(benchmarks),
            ),
        ),
        meanings={
            "Macro-F1": MEANINGS["Macro-F1"],
            "Left out": MEANINGS["Left out"],
        },
    )


def _right_words(cell: Cell) -> tuple[str, str]:
    return NOTHING if isinstance(cell, Undefined) else part_words(cell)
