"""Several processes that share the pieces of work, each with an engine of its own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import attrs

from gem_suite.engines import EngineChoice, open_engine
from gem_suite.runner_tasks import SuiteSettings, load_planned, suite_plans
from gem_suite.runner_worker import Done, Piece, Worker
from gemcore.errors import GemError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@attrs.frozen(kw_only=True)
class WorkerSetup:
    """All that a worker in another process needs to know.

    Attributes:
        choice: its engine.
        settings: of the run.
        threads: that its engine computes with.
    """

    choice: EngineChoice
    settings: SuiteSettings
    threads: int


def work_in_processes(pieces: Sequence[Piece], setup: WorkerSetup, workers: int) -> Iterator[Done]:
    """Do all pieces, each in one of `workers` processes, and yield them as they are done.

    Raises:
        GemError: a process ended in the middle of its work, or cannot open the model.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, max(1, len(pieces))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
    )
    try:
        futures = [pool.submit(run_piece, setup, piece) for piece in pieces]
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise GemError(
            "a worker process ended unexpectedly, perhaps for lack of memory: use fewer --workers; "
            "what is done is kept, and the same command goes on from there"
        ) from error
    finally:
        # After an interruption nobody waits for the pieces that are under way.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()


def run_piece(setup: WorkerSetup, piece: Piece) -> Done:
    """Do one piece of work with this process's own worker."""
    return _worker(setup).run(piece)


@functools.cache
def _worker(setup: WorkerSetup) -> Worker:
    with warnings.catch_warnings():
        # The process that started this one has said it all.
        warnings.simplefilter("ignore")
        plans = {plan.name: plan for plan in suite_plans(setup.settings)}
    return Worker(
        open_engine(setup.choice, setup.threads),
        lambda name: load_planned(plans[name], setup.settings),
        chat=setup.settings.chat_template,
    )


def _begin() -> None:
    """Leave Ctrl-C to the process that started this one, and end when that one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
