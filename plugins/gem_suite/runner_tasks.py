"""Which tasks a run has, and how each one is cut into pieces of work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.errors import TaskError
from gem_suite.requests import digest
from gem_suite.sources import all_benchmarks
from gem_suite.tasks import load_task, plan_tasks
from gemcore.plugins import get_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gem_suite.requests import Request
    from gem_suite.tasks import Task, TaskPlan

PIECE_ITEMS = 48
PIECE_COST = 300_000
"""A piece of work ends before it has more items, or costs more, than this."""

_CHARACTERS_A_TOKEN = 4
_GENERATED_TOKEN = 2
_ITEM = 200


@attrs.frozen(kw_only=True)
class SuiteSettings:
    """What is to be measured, in words that another process understands too.

    Attributes:
        data: the data folder; None: data comes from the Hub.
        benchmark_files: TOML files of further benchmarks.
        domains, tasks: only these; all where empty.
        limit: items of each task; None: all.
        shots: examples before each item; None: as each benchmark says.
        seed: of the choice of examples.
        chat_template: put prompts into the model's chat template.
        calibrate: ask with content-free prompts, too, where a benchmark has any.
        no_plugins: take benchmarks from no plugin but GEM's own.
        bits_only: ask nothing but what bits per byte of the right answers need.
    """

    data: Path | None = None
    benchmark_files: tuple[Path, ...] = ()
    domains: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    shots: int | None = None
    seed: int = 0
    chat_template: bool = False
    calibrate: bool = True
    no_plugins: bool = False
    bits_only: bool = False

    def options(self) -> dict[str, Any]:
        """What changes results, beside data and model."""
        return {
            "limit": self.limit,
            "shots": self.shots,
            "seed": self.seed,
            "chat_template": self.chat_template,
            "calibrate": self.calibrate,
            # Absent otherwise, so that results from before there was a choice stay what they are.
            **({"bits_only": True} if self.bits_only else {}),
        }


@attrs.frozen(kw_only=True)
class PreparedTask:
    """A task with what must be known before any of it is asked.

    Attributes:
        task: the task.
        requests_digest: SHA-256 of what is asked.
        digest: SHA-256 of what is asked and of the items themselves, answers included.
        costs: of each item, in characters that take as long to read.
        pieces: places of items in `task.documents`; the same for the same requests.
    """

    task: Task
    requests_digest: str
    digest: str
    costs: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]


def suite_plans(settings: SuiteSettings) -> tuple[TaskPlan, ...]:
    """The tasks of a run, nothing of them read yet.

    Raises:
        UsageError: a domain or task does not exist.
        GemError: benchmark records or data folders are not right.
    """
    from gemcore.discovery import HostSettings

    host = get_host(HostSettings.from_environment(no_plugins=settings.no_plugins))
    benchmarks = all_benchmarks(host, settings.benchmark_files)
    return plan_tasks(benchmarks, settings.data, domains=settings.domains, names=settings.tasks)


def load_planned(plan: TaskPlan, settings: SuiteSettings) -> Task:
    """Read a task's items; TaskError as `gem_suite.tasks.load_task`."""
    return load_task(
        plan,
        limit=settings.limit,
        shots=settings.shots,
        seed=settings.seed,
        calibrate=settings.calibrate,
        bits_only=settings.bits_only,
    )


def prepare(task: Task) -> PreparedTask:
    """Put a task's items into words once, to know what will be asked.

    Raises:
        TaskError: there are not enough examples, or no item has an answer to score.
    """
    requests = [task.request(document) for document in task.documents]
    if not any(request.pairs or request.kind == "text" for request in requests):
        raise TaskError(
            f"task '{task.benchmark.name}': none of its {len(requests)} items has a right answer among "
            "what is asked: score more items, or leave the task out"
        )
    asked = digest(requests)
    whole = hashlib.sha256(asked.encode())
    for document in task.documents:
        whole.update(json.dumps(attrs.asdict(document), sort_keys=True).encode())
    costs = tuple(map(cost, requests))
    return PreparedTask(
        task=task,
        requests_digest=asked,
        digest=whole.hexdigest(),
        costs=costs,
        pieces=tuple(cut_into_pieces(costs)),
    )


def cost(request: Request) -> int:
    """How long a request takes, very nearly: characters to read."""
    read, before = 0, ""
    for context, continuation in request.pairs:
        # What it has in common with the one before is read once.
        if context != before:
            read += len(context) - _common(before, context)
            before = context
        read += len(continuation)
    generated = request.max_tokens * _GENERATED_TOKEN * _CHARACTERS_A_TOKEN
    return _ITEM + read + len(request.prompt) + len(request.text) + generated


def cut_into_pieces(costs: Sequence[int]) -> list[tuple[int, ...]]:
    """Places of items, in order, in pieces of bearable cost with at least one item each.

    >>> cut_into_pieces([1, 2, 299_998, 3])
    [(0, 1), (2,), (3,)]
    """
    pieces: list[tuple[int, ...]] = []
    piece: list[int] = []
    for place, own in enumerate(costs):
        total = own + sum(costs[other] for other in piece)
        if piece and (len(piece) == PIECE_ITEMS or total > PIECE_COST):
            pieces.append(tuple(piece))
            piece = []
        piece.append(place)
    return [*pieces, tuple(piece)] if piece else pieces


def _common(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))
