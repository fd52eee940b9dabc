"""Where the time of a pass goes: kernel by kernel, against the limit that memory sets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError, UsageError
from gemcore.runtime.traffic import Traffic

if TYPE_CHECKING:
    from gemcore.benchmark import BenchmarkResult
    from gemcore.runtime.executor import Executor, NativeExecutor
    from gemcore.runtime.instrument import Call
    from gemcore.session import Session

LEAST_ROUNDS = 3
"""How often the passes are timed, at the least."""

Noted = TypeVar("Noted")


@attrs.frozen(kw_only=True)
class KernelProfile:
    """All calls of one kernel, in one token or one prompt.

    Attributes:
        name: of the kernel, with its sizes.
        calls: how many there are.
        microseconds: what they take.
        traffic: what they move.
    """

    name: str
    calls: int
    microseconds: float
    traffic: Traffic

    @property
    def memory_bytes_per_s(self) -> float:
        """Bytes of weights and caches a second; activations lie in the processor's caches."""
        return self.traffic.memory / self.microseconds * 1e6 if self.microseconds > 0 else 0.0

    @property
    def multiply_accumulates_per_s(self) -> float:
        """Multiply-accumulates a second; 0 where it is no matrix product."""
        work = self.traffic.multiply_accumulates
        return work / self.microseconds * 1e6 if self.microseconds > 0 else 0.0


@attrs.frozen(kw_only=True)
class PhaseProfile:
    """Prefill or decode.

    Attributes:
        tokens: of the prompt in prefill; 1 in decode.
        kernels: those that take the most time first.
        machine_calls, machine_microseconds: the virtual machine's own functions, for memory and shapes.
        instrumented_microseconds: a token, or the prompt, while being looked at.
        microseconds: the same, measured without an instrument.
    """

    tokens: int
    kernels: tuple[KernelProfile, ...]
    machine_calls: int
    machine_microseconds: float
    instrumented_microseconds: float
    microseconds: float

    @property
    def kernel_microseconds(self) -> float:
        """Spent in kernels."""
        return sum(kernel.microseconds for kernel in self.kernels)

    @property
    def outside_share(self) -> float:
        """Part of the time that is spent in no kernel: in the virtual machine and in Python."""
        return 1 - self.kernel_microseconds / self.microseconds

    @property
    def traffic(self) -> Traffic:
        """Of all kernels."""
        return sum((kernel.traffic for kernel in self.kernels), Traffic())

    @property
    def memory_bytes_per_s(self) -> float:
        """Bytes of weights and caches a second, over all the time that was measured without instrument."""
        return self.traffic.memory / self.microseconds * 1e6


@attrs.frozen(kw_only=True)
class Profile:
    """Both phases, and what they are held against.

    Attributes:
        bandwidth_limit: bytes a second of a plain read with the same threads.
        threads: how many those are.
        prefill: of the whole prompt.
        decode: of one token, on average over those that were generated.
    """

    bandwidth_limit: float
    threads: int
    prefill: PhaseProfile
    decode: PhaseProfile

    def limit_share(self, part: KernelProfile | PhaseProfile) -> float:
        """Share of the limit that a kernel or a whole phase reaches with weights and caches."""
        return part.memory_bytes_per_s / self.bandwidth_limit

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in microseconds, bytes and GB/s (10**9 bytes a second)."""
        return {
            "bandwidth_limit_gb_per_s": self.bandwidth_limit / 1e9,
            "threads": self.threads,
            "prefill": self._phase(self.prefill),
            "decode": self._phase(self.decode),
        }

    def _phase(self, phase: PhaseProfile) -> dict[str, Any]:
        return {
            "tokens": phase.tokens,
            "microseconds": phase.microseconds,
            "instrumented_microseconds": phase.instrumented_microseconds,
            "kernel_microseconds": phase.kernel_microseconds,
            "virtual_machine_microseconds": phase.machine_microseconds,
            "virtual_machine_calls": phase.machine_calls,
            "outside_share": phase.outside_share,
            "bytes_read": phase.traffic.read,
            "bytes_written": phase.traffic.written,
            "memory_bytes": phase.traffic.memory,
            "memory_gb_per_s": phase.memory_bytes_per_s / 1e9,
            "limit_share": self.limit_share(phase),
            "kernels": [self._kernel(kernel, phase) for kernel in phase.kernels],
        }

    def _kernel(self, kernel: KernelProfile, phase: PhaseProfile) -> dict[str, Any]:
        rate = kernel.multiply_accumulates_per_s
        return {
            "name": kernel.name,
            "calls": kernel.calls,
            "microseconds": kernel.microseconds,
            "share": kernel.microseconds / phase.kernel_microseconds,
            "bytes_read": kernel.traffic.read,
            "bytes_written": kernel.traffic.written,
            "memory_bytes": kernel.traffic.memory,
            "memory_gb_per_s": kernel.memory_bytes_per_s / 1e9,
            "limit_share": self.limit_share(kernel),
            "gmac_per_s": rate / 1e9 if rate else None,
        }


def native_executor(session: Session) -> NativeExecutor:
    """The executor of a session that can be profiled; UsageError where it cannot."""
    from gemcore.runtime.executor import NativeExecutor

    executor = session._executor
    if not isinstance(executor, NativeExecutor):
        raise UsageError(
            f"target '{session.bundle.manifest.target}' cannot be profiled, for its models do not run in "
            "this process: leave out --profile, or choose the target 'host'"
        )
    return executor


def profile(session: Session, result: BenchmarkResult) -> Profile:
    """Profile passes like those that `gemcore.benchmark.measure` has timed in `result`.

    A prompt and the tokens after it are gone through once with a log of all calls, then again with a clock
    around each. Times of kernels are means under the clock, which costs some, over the middle half of the
    passes by time; times of a whole token or prompt are those of `result`, without it.

    Raises:
        UsageError: the target does not run its models in this process.
        GemError: an earlier GEM compiled the model, or there is no room to measure memory's speed.
    """
    from gemcore.runtime.bandwidth import memory_bandwidth
    from gemcore.runtime.instrument import Clock, LoggedExecutor

    executor = native_executor(session)
    limits = [memory_bandwidth(executor.library)]
    ids = np.random.default_rng(0).integers(0, session.config.vocabulary_size, result.prompt_tokens)
    logged = LoggedExecutor(executor)
    log = logged.log
    logs = [
        pass_log
        for pass_log, _ in _passes(
            _with_executor(session, logged),
            ids.tolist(),
            result.new_tokens,
            start=lambda _: log.start(),
            stop=lambda: _PassLog(calls=tuple(log.calls()), events=log.events),
        )
    ]
    clock = Clock(executor.library)
    timed = _with_executor(session, executor.instrumented(clock.instrument))
    # The first round is a warm-up.
    prompts = [
        _passes(
            timed, ids.tolist(), 1, start=lambda i: clock.start(logs[i].events), stop=clock.stop
        )[0]
        for _ in range(1 + max(LEAST_ROUNDS, result.repetitions))
    ][1:]
    replayed = executor.instrumented(None)
    replayed.replay_times = times = np.zeros(1 + len(_kernels(logs[1])), np.int64)
    tokens = _with_executor(session, replayed)
    rounds = [
        _passes(tokens, ids.tolist(), result.new_tokens, start=lambda _: None, stop=times.copy)
        for _ in range(1 + max(LEAST_ROUNDS, result.repetitions))
    ][1:]
    # A second time, for a machine that was busy the first.
    limits.append(memory_bandwidth(executor.library))
    return Profile(
        bandwidth_limit=max(limits),
        threads=result.threads,
        prefill=_phase(
            logs[:1],
            prompts,
            tokens=result.prompt_tokens,
            microseconds=1e6 * result.prompt_tokens / result.prefill.median,
        ),
        decode=_phase(
            [_replayed(log) for log in logs[1:]],
            [one for passes in rounds for one in passes[1:]],
            tokens=1,
            microseconds=1e6 / result.decode.median,
        ),
    )


@attrs.frozen(kw_only=True)
class _PassLog:
    """What was called in one pass, and how often the instrument was."""

    calls: tuple[Call, ...]
    events: int


def _kernels(log: _PassLog) -> list[Call]:
    """What a replay of the pass calls."""
    return [call for call in log.calls if call.traffic is not None]


def _replayed(log: _PassLog) -> _PassLog:
    """The same as a replay does it: kernels alone, each between two readings of the clock."""
    calls = tuple(
        attrs.evolve(call, begin=place, end=place + 1) for place, call in enumerate(_kernels(log))
    )
    return _PassLog(calls=calls, events=len(calls) + 1)


def _with_executor(session: Session, executor: Executor) -> Session:
    """A session of the same model with a cache of its own."""
    return type(session)(session.bundle, executor, context_length=session.context_length)


def _passes(
    session: Session,
    prompt: list[int],
    count: int,
    *,
    start: Callable[[int], None],
    stop: Callable[[], Noted],
) -> list[tuple[Noted, float]]:
    """Read the prompt, then generate: what `stop` returns after each, and the seconds it took."""
    session.forget()
    noted = []
    tokens = prompt
    for i in range(count):
        start(i)
        begin = time.perf_counter()
        tokens = [int(session.feed(tokens).argmax())]
        seconds = time.perf_counter() - begin
        noted.append((stop(), seconds))
    return noted


def _phase(
    logs: Sequence[_PassLog],
    timings: Sequence[tuple[npt.NDArray[np.int64], float]],
    *,
    tokens: int,
    microseconds: float,
) -> PhaseProfile:
    """One phase, from what its passes called and from the times of all events of many of them."""
    calls = logs[0].calls
    if any([call.name for call in log.calls] != [call.name for call in calls] for log in logs):
        raise GemError(
            "the model does not call the same kernels for every token: it has no profile"
        )
    # Whole passes are left out, not single calls: else the parts would not add up to a pass.
    quarter = len(timings) // 4
    middle = sorted(timings, key=lambda timing: timing[1])[quarter : len(timings) - quarter]
    times = np.stack([events for events, _ in middle])
    begins, ends = [call.begin for call in calls], [call.end for call in calls]
    spent = (times[:, ends] - times[:, begins]).mean(axis=0) / 1e3
    kernels: dict[str, KernelProfile] = {}
    machine = []
    for i, call in enumerate(calls):
        if call.traffic is None:
            machine.append(float(spent[i]))
            continue
        moved = sum((log.calls[i].traffic or Traffic() for log in logs), Traffic()) / len(logs)
        before = kernels.get(call.name)
        kernels[call.name] = KernelProfile(
            name=call.name,
            calls=(before.calls if before else 0) + 1,
            microseconds=(before.microseconds if before else 0.0) + float(spent[i]),
            traffic=(before.traffic if before else Traffic()) + moved,
        )
    return PhaseProfile(
        tokens=tokens,
        kernels=tuple(sorted(kernels.values(), key=lambda kernel: -kernel.microseconds)),
        machine_calls=len(machine),
        machine_microseconds=sum(machine),
        instrumented_microseconds=1e6 * statistics.mean(seconds for _, seconds in middle),
        microseconds=microseconds,
    )
