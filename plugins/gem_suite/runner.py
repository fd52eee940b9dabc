"""A run of the suite: from tasks and a model to the result file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from gem_suite.runner_report import suite_results
from gem_suite.runner_tasks import (
    PreparedTask,
    SuiteSettings,
    load_planned,
    prepare,
    suite_plans,
)
from gem_suite.runner_worker import Done, Piece, Worker
from gem_suite.store import journal_path, open_journal, write_result
from gemcore import __version__
from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gem_suite.engines import Engine
    from gem_suite.runner_model import ModelDescription
    from gem_suite.runner_worker import Record
    from gem_suite.store import Journal

    Work = Callable[[Sequence[Piece], Mapping[str, PreparedTask]], Iterator[Done]]
    """Does pieces of work in any order, and yields them as they are done."""


class Progress(Protocol):
    """Is told how a run goes on."""

    def begin(self, total: int, done: int, tasks: int) -> None:
        """All costs of the run, those of items that are there already, and how many tasks it has."""
        ...

    def advance(self, task: str, cost: int) -> None:
        """Items of a task were scored."""
        ...

    def finish(self, task: str, items: int) -> None:
        """A task has all its scores."""
        ...

    def fail(self, task: str, problem: str) -> None:
        """A task cannot be finished."""
        ...


@attrs.frozen(kw_only=True)
class SuiteRun:
    """What to measure, and where the results go.

    Attributes:
        settings: tasks and options.
        model: says what the model is.
        output: the result file.
        restart: forget what an interrupted run has left.
    """

    settings: SuiteSettings
    model: ModelDescription
    output: Path
    restart: bool = False


def run_suite(run: SuiteRun, work: Work, progress: Progress) -> dict[str, Any]:
    """Measure a model and write the result file.

    What is scored goes to a journal beside the output at once. A run that was interrupted goes on
    from there, and its result file is the same, apart from times. The journal is kept where a task
    failed, so that the others need not be repeated once that is corrected.

    Args:
        run: what to measure.
        work: does pieces: `(pieces, tasks) -> iterator of Done`; see `work_here` and
            `gem_suite.runner_pool.work_in_processes`.
        progress: is told how it goes.

    Returns:
        The content of the result file; its "errors" are tasks that failed, each with the reason.

    Raises:
        UsageError: a domain or task does not exist, the journal belongs to another run, the model
            has no chat template, or the output cannot be there.
        GemError: the output cannot be written.
    """
    started = time.monotonic()
    _check(run)
    tasks, problems = _prepare_all(run.settings)
    with open_journal(
        journal_path(run.output), _identity(run, tasks, problems), restart=run.restart
    ) as journal:
        records = {name: dict(journal.records.get(name, {})) for name in tasks}
        pieces = list(_missing_pieces(tasks, records))
        total = sum(sum(prepared.costs) for prepared in tasks.values())
        left = sum(_cost(tasks, piece) for piece in pieces)
        progress.begin(total, total - left, len(tasks) + len(problems))
        for name, problem in problems.items():
            progress.fail(name, problem)
        for done in work(pieces, tasks):
            _take(done, tasks, records, problems, journal, progress)
        results = suite_results(
            run.model,
            run.settings.options(),
            {name: task for name, task in tasks.items() if name not in problems},
            {name: _in_order(tasks[name], records[name]) for name in tasks if name not in problems},
            problems,
            seconds=time.monotonic() - started,
        )
        write_result(run.output, results)
        if not problems:
            journal.remove()
    return results


def work_here(engine: Engine, settings: SuiteSettings) -> Work:
    """Work in this process, one piece after the other."""

    def work(pieces: Sequence[Piece], tasks: Mapping[str, PreparedTask]) -> Iterator[Done]:
        worker = Worker(engine, lambda name: tasks[name].task, chat=settings.chat_template)
        failed: set[str] = set()
        for piece in pieces:
            if piece.task not in failed:
                done = worker.run(piece)
                if done.problem:
                    failed.add(piece.task)
                yield done

    return work


def _check(run: SuiteRun) -> None:
    """What can be known to be wrong before any work is done."""
    if not run.output.absolute().parent.is_dir():
        raise UsageError(f"the folder of the output, {run.output.parent}, does not exist: make it")
    if run.output.is_dir():
        raise UsageError(f"{run.output} is a folder: name a file with -o")
    if run.settings.chat_template and not run.model.has_template:
        raise UsageError(
            f"model '{run.model.name}' has no chat template: leave out --chat-template"
        )


def _prepare_all(settings: SuiteSettings) -> tuple[dict[str, PreparedTask], dict[str, str]]:
    """Every task that can be read, and why the others cannot."""
    tasks: dict[str, PreparedTask] = {}
    problems: dict[str, str] = {}
    for plan in suite_plans(settings):
        try:
            tasks[plan.name] = prepare(load_planned(plan, settings))
        except GemError as error:
            problems[plan.name] = str(error)
    if not tasks and not problems:
        raise UsageError("no task is left to run: choose other --domains or --tasks")
    return tasks, problems


def _identity(
    run: SuiteRun, tasks: Mapping[str, PreparedTask], problems: Mapping[str, str]
) -> dict[str, Any]:
    """What all items of a journal have in common."""
    return {
        "GEM version": __version__,
        "engine": run.model.engine,
        "model": run.model.identity,
        "context length": run.model.context_length,
        **run.settings.options(),
        "tasks": {
            **{name: prepared.digest for name, prepared in tasks.items()},
            **dict.fromkeys(problems),
        },
    }


def _missing_pieces(
    tasks: Mapping[str, PreparedTask], records: Mapping[str, Mapping[int, Record]]
) -> Iterator[Piece]:
    for name, prepared in tasks.items():
        for places in prepared.pieces:
            missing = tuple(
                place
                for place in places
                if prepared.task.documents[place].index not in records[name]
            )
            if missing:
                yield Piece(task=name, places=places, missing=missing)


def _take(
    done: Done,
    tasks: Mapping[str, PreparedTask],
    records: Mapping[str, dict[int, Record]],
    problems: dict[str, str],
    journal: Journal,
    progress: Progress,
) -> None:
    """Keep what a piece of work gave."""
    name = done.piece.task
    progress.advance(name, _cost(tasks, done.piece))
    if name in problems:
        return
    if done.problem:
        problems[name] = done.problem
        progress.fail(name, done.problem)
        return
    journal.append(done.records)
    records[name].update({record.document: record for record in done.records})
    if len(records[name]) == len(tasks[name].task.documents):
        progress.finish(name, len(records[name]))


def _in_order(prepared: PreparedTask, records: Mapping[int, Record]) -> list[Record]:
    return [records[document.index] for document in prepared.task.documents]


def _cost(tasks: Mapping[str, PreparedTask], piece: Piece) -> int:
    return sum(tasks[piece.task].costs[place] for place in piece.missing)
