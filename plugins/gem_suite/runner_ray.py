"""The pieces of work as tasks of a Ray cluster, or of one that is started here for the run.

Ray finds free cores, starts processes on them, and gives a task to another process where one dies.
What has come back is in the journal already (`gem_suite.runner`), so a run that ends early, for
whatever reason, goes on from there, with Ray or without.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gem_suite.runner_pool import WorkerSetup, run_piece
from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gem_suite.runner_worker import Done, Piece

RETRIES = 3
"""How often a piece is given to another process after the one that was at it has died."""

_KNOCK_SECONDS = 10.0
_OBJECT_STORE_BYTES = 128 * 2**20
"""Memory for what goes to and fro; pieces and their scores are small, and Ray would take much more."""


def work_on_ray(pieces: Sequence[Piece], setup: WorkerSetup, workers: int) -> Iterator[Done]:
    """Do all pieces, `workers` of them at a time, and yield them as they are done.

    The cluster is the one that `RAY_ADDRESS` names; without it, one is started here and ended after
    the run. Every machine of a cluster needs GEM, and the bundle or model and the data under the same
    paths. Each task asks for `setup.threads` cores.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at `RAY_ADDRESS`.
        GemError: a worker cannot open the model, or a piece is lost more often than `RETRIES`.
    """
    ray = _ray()
    with _cluster(ray, setup.threads * workers):
        # A worker process is used again, and has its engine then.
        task = ray.remote(num_cpus=setup.threads, max_retries=RETRIES)(run_piece)
        shared = ray.put(setup)
        waiting = iter(pieces)
        running: list[Any] = []
        try:
            while True:
                for piece in waiting:
                    running.append(task.remote(shared, piece))
                    if len(running) >= workers:
                        break
                if not running:
                    return
                done, running = ray.wait(running)
                for reference in done:
                    yield _result(ray, reference)
        finally:
            # After an interruption nobody waits for what is under way.
            for reference in running:
                ray.cancel(reference, force=True)


def _ray() -> Any:
    # Nothing is reported to anyone; who wants that may set the variable.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--cluster ray needs Ray, which is not installed: pip install 'gemcore[ray]', or use "
            "--workers without --cluster"
        ) from None
    return ray


@contextmanager
def _cluster(ray: Any, cores: int) -> Iterator[None]:
    """Connect to a cluster, or start one with so many cores; leave one that was there as it is."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "").strip()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address and address != "local":
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=cores,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        sentence = str(error).strip().partition("\n")[0]
        if not address:
            raise GemError(f"Ray cannot start on this machine: {sentence}") from error
        raise UsageError(
            f"no Ray cluster can be reached at RAY_ADDRESS={address}: {sentence}; correct the "
            "address, or unset it to start Ray here"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal() and int(port) < 2**16:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def _result(ray: Any, reference: Any) -> Done:
    """What a task gave, or why it gave nothing, as a sentence."""
    errors = ray.exceptions
    try:
        done: Done = ray.get(reference)
    except errors.RayTaskError as error:
        if isinstance(error.cause, GemError):
            raise error.cause from None
        raise GemError(
            f"a worker on the Ray cluster failed: {type(error.cause).__name__}: {error.cause}; "
            "every machine needs the same GEM, and the model and data under the same paths"
        ) from error
    except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
        raise GemError(
            f"a worker ended unexpectedly {RETRIES + 1} times at the same work, perhaps for lack of "
            "memory: use fewer --workers; what is done is kept, and the same command goes on from "
            "there"
        ) from error
    except errors.RayError as error:
        sentence = str(error).strip().partition("\n")[0]
        raise GemError(
            f"the Ray cluster failed: {sentence}; what is done is kept, and the same command goes on "
            "from there"
        ) from error
    return done
