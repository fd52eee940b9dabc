"""Tasks: benchmarks with their items, ready to be asked and scored. What a runner works through."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.aggregate import aggregate
from gem_suite.catalog import without_calibration
from gem_suite.errors import TaskError
from gem_suite.fewshot import choose_examples
from gem_suite.folders import find_folders, folder_benchmark, folder_documents
from gem_suite.lines import read_documents
from gem_suite.prompts import build_request, has_reference
from gem_suite.records import LOWER_IS_BETTER
from gem_suite.right_answers import bits_benchmark, only_right
from gem_suite.scoring import score, score_bits
from gemcore.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gem_suite.folders import Folder
    from gem_suite.records import Benchmark
    from gem_suite.requests import Outcome, Request
    from gem_suite.schema import Document


@attrs.frozen(kw_only=True)
class TaskPlan:
    """A task that can be loaded: nothing has been read yet but the names of folders.

    Attributes:
        name: of the task.
        domain: it belongs to.
        folder: its data; None: it comes from the Hub.
        benchmark: its record; None: it is made from the folder when the task is loaded.
    """

    name: str
    domain: str
    folder: Folder | None = None
    benchmark: Benchmark | None = None


@attrs.frozen(kw_only=True)
class Task:
    """A benchmark and its items.

    Attributes:
        benchmark: the record, as it is run.
        documents: the items to ask.
        original: how many items there are, before any limit; None where they were not counted.
        pool: the items that examples are chosen from.
        shots: examples before each item.
        seed: of the choice of examples.
        bits_only: nothing is asked but what bits per byte of the right answers need.
    """

    benchmark: Benchmark
    documents: tuple[Document, ...]
    original: int
    pool: tuple[Document, ...] = ()
    shots: int = 0
    seed: int = 0
    bits_only: bool = False

    def request(self, document: Document) -> Request:
        """What to ask about an item."""
        examples = choose_examples(
            self.benchmark, self.pool, document, count=self.shots, seed=self.seed
        )
        request = build_request(self.benchmark, document, examples)
        return only_right(self.benchmark, document, request) if self.bits_only else request

    def score(self, document: Document, request: Request, outcome: Outcome) -> dict[str, Any]:
        """The scored item, as it stands under `samples`; see `gem_suite.scoring.score`."""
        scored = score_bits if self.bits_only else score
        return scored(self.benchmark, document, request, outcome)

    def results(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The task's entry under `results`; see `gem_suite.aggregate.aggregate`."""
        return aggregate(self.benchmark, samples)

    def chance(self) -> float:
        """Expected main score of a guess: as the record says, or one over the number of choices."""
        if self.benchmark.chance is not None:
            return self.benchmark.chance
        shares = [1 / len(item.options) for item in self.documents if item.options]
        return math.fsum(shares) / len(shares) if shares else 0.0

    def config(self) -> dict[str, Any]:
        """The task's entry under `configs`."""
        benchmark = self.benchmark
        return {
            "task": benchmark.name,
            "title": benchmark.title,
            "domain": benchmark.domain,
            "task_type": benchmark.task_type,
            "main_metric": benchmark.metric,
            "chance": self.chance(),
            "higher_is_better": benchmark.higher_is_better,
            "num_fewshot": self.shots,
            "prompt": benchmark.prompt.description + benchmark.prompt.context,
            "continuation": benchmark.prompt.delimiter + benchmark.prompt.continuation,
            "licence": benchmark.licence,
            "dataset": benchmark.hub.dataset if benchmark.hub else benchmark.title,
            "note": benchmark.note,
        }

    def higher_is_better(self) -> dict[str, bool]:
        """The task's entry under `higher_is_better`."""
        names = dict.fromkeys((*self.benchmark.metrics, "bits_per_byte"))
        return {name: name not in LOWER_IS_BETTER for name in names}

    def sample_counts(self) -> dict[str, int]:
        """The task's entry under `n-samples`."""
        return {"original": self.original, "effective": len(self.documents)}


def plan_tasks(
    benchmarks: Mapping[str, Benchmark],
    root: Path | None,
    *,
    domains: Sequence[str] = (),
    names: Sequence[str] = (),
) -> tuple[TaskPlan, ...]:
    """Choose tasks, in alphabetical order of domain and name.

    Args:
        benchmarks: the records, by name.
        root: the data folder; every folder in it is a task, those that no record names too. None:
            every record that has a data set on the Hub.
        domains, names: only these; all where empty.

    Raises:
        UsageError: there is no such domain or task, with the names that exist.
    """
    if root is None:
        plans = [
            TaskPlan(name=record.name, domain=record.domain, benchmark=record)
            for record in benchmarks.values()
            if record.hub is not None
        ]
    else:
        plans = [
            TaskPlan(
                name=folder.name,
                domain=folder.domain,
                folder=folder,
                benchmark=benchmarks.get(folder.name),
            )
            for folder in find_folders(root).values()
        ]
    known_domains, known_names = {plan.domain for plan in plans}, {plan.name for plan in plans}
    for domain in domains:
        if domain not in known_domains:
            raise unknown_name("domain", domain, known_domains)
    for name in names:
        if name not in known_names:
            raise unknown_name("task", name, known_names)
    chosen = [
        plan
        for plan in plans
        if (not domains or plan.domain in domains) and (not names or plan.name in names)
    ]
    return tuple(sorted(chosen, key=lambda plan: (plan.domain, plan.name)))


def load_task(
    plan: TaskPlan,
    *,
    limit: int | None = None,
    shots: int | None = None,
    seed: int = 0,
    calibrate: bool = True,
    bits_only: bool = False,
) -> Task:
    """Read a task's items and check every one of them.

    Args:
        plan: what to load.
        limit: the first so many items; all where None.
        shots: examples before each item; as the record says where None.
        seed: of the choice of examples.
        calibrate: also ask with content-free prompts, where the record has any.
        bits_only: ask nothing but what bits per byte of the right answers need.

    Raises:
        TaskError: the data is missing or malformed, with file and line; other tasks can go on.
    """
    benchmark = plan.benchmark
    if benchmark is None:
        if plan.folder is None:
            raise TaskError(f"task '{plan.name}' has neither a record nor a data folder")
        benchmark = folder_benchmark(plan.folder)
    benchmark = benchmark if calibrate else without_calibration(benchmark)
    count = benchmark.few_shot.count if shots is None else shots
    if benchmark.metric in LOWER_IS_BETTER and benchmark.task_type != "open_ended":
        count = 0
    every, pool = _items(plan, benchmark, count)
    usable = [item for item in every if has_reference(benchmark, item)]
    if not usable:
        raise TaskError(f"task '{plan.name}' has no items that can be scored")
    return Task(
        benchmark=bits_benchmark(benchmark) if bits_only else benchmark,
        documents=tuple(islice(usable, limit)),
        original=len(every),
        pool=pool,
        shots=count,
        seed=seed,
        bits_only=bits_only,
    )


def _items(
    plan: TaskPlan, benchmark: Benchmark, shots: int
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """All test items, and the items that examples come from."""
    own = benchmark.few_shot.source == "test"
    if plan.folder is None:
        from gem_suite.hub import hub_documents

        every = hub_documents(benchmark)
        if not shots or own:
            return every, every if shots else ()
        return every, hub_documents(benchmark, train=True)
    every = tuple(folder_documents(plan.folder, benchmark))
    if not shots or own:
        return every, every if shots else ()
    return every, tuple(read_documents(plan.folder.train, benchmark.task_type))
