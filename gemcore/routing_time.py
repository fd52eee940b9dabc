"""How long routing alone takes: the prior of a request, and the routers' part of a token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from gemcore.errors import UsageError
from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.routes import check_experts

if TYPE_CHECKING:
    from gemcore.runtime.executor import NativeExecutor
    from gemcore.session import Session


@attrs.frozen(kw_only=True)
class RoutingTime:
    """Medians of several repetitions after one that does not count.

    Attributes:
        repetitions: how many there were.
        prior_ms: milliseconds of the prior of the text, which a request pays once, before its first token;
            None for a model without a network that gives one.
        token_ms: milliseconds of the kernels of the routers for one token at a time, as decoding pays
            them; None where they cannot be told from the model's others.
    """

    repetitions: int
    prior_ms: float | None
    token_ms: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, to four places."""
        return {
            "repetitions": self.repetitions,
            "prior_ms": None if self.prior_ms is None else round(self.prior_ms, 4),
            "token_ms": None if self.token_ms is None else round(self.token_ms, 4),
        }


def time_routing(session: Session, tokens: Sequence[int], repetitions: int = 10) -> RoutingTime:
    """Time the routing of a text, without the passes that it is for.

    Raises UsageError for a model without experts, and for less than one repetition.
    """
    from gemcore.runtime.executor import NativeExecutor

    check_repetitions(repetitions)
    check_experts(session.bundle.manifest)
    executor = session._executor
    return RoutingTime(
        repetitions=repetitions,
        prior_ms=_prior_ms(session, tokens, repetitions),
        token_ms=(
            _token_ms(session, executor, tokens[-1], repetitions)
            if isinstance(executor, NativeExecutor)
            else None
        ),
    )


def check_repetitions(repetitions: int) -> None:
    """Raise UsageError for less than one repetition."""
    if repetitions < 1:
        raise UsageError(f"times need at least 1 repetition, not {repetitions}")


def _prior_ms(session: Session, tokens: Sequence[int], repetitions: int) -> float | None:
    if not session.bundle.manifest.prior_tokens:
        return None
    spent = []
    for _ in range(1 + repetitions):
        begin = time.perf_counter()
        session.prior_of(tokens)
        spent.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(spent[1:])


def _token_ms(
    session: Session, executor: NativeExecutor, token: int, repetitions: int
) -> float | None:
    """The kernels after the norm that the last router reads, times the number of routers.

    A layer has two norms, and the pass ends with the router, after the first norm of its layer: a number
    of norms that is even means that this router reads no hidden state.
    """
    from gemcore.runtime.instrument import Clock, LoggedExecutor

    manifest = session.bundle.manifest
    cache = executor.new_cache(session.config, manifest.kv_cache)
    cache.reserve(1)
    one = (
        np.array([token], np.int32),
        np.zeros((1, PLACEMENT_FIELDS), np.int32),
        session.prior_of([token])[None],  # type: ignore[index]
    )
    logged = LoggedExecutor(executor)
    routers = len(logged.routes(*one, cache))
    logged.log.start()
    logged.routes(*one, cache)
    calls, events = logged.log.calls(), logged.log.events
    norms = [i for i, call in enumerate(calls) if call.name.startswith("rms_norm")]
    if len(norms) % 2 == 0:
        return None
    kernels = [call for call in calls[norms[-1] + 1 :] if call.traffic is not None]
    clock = Clock(executor.library)
    timed = executor.instrumented(clock.instrument)
    spent = []
    timed.routes(*one, cache)
    for _ in range(repetitions):
        clock.start(events)
        timed.routes(*one, cache)
        times = clock.stop()
        spent.append(sum(int(times[call.end] - times[call.begin]) for call in kernels))
    return routers * statistics.median(spent) / 1e6
