"""What is measured, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import numpy as np

from peer_comparison.errors import SystemFailedError
from peer_comparison.likelihood import WINDOW, windows
from peer_comparison.process import Launcher, Worker
from peer_comparison.records import LoadRequest, Model, Timing
from peer_comparison.systems import System

MEMORY_CONTEXT = 1024
"""Tokens of prompt and answer together in the run whose memory is measured, if the model has room."""

Say = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        threads: thread counts, each measured on its own.
        prompt_tokens: lengths of prompts.
        new_tokens: tokens that each prompt is continued by.
        rounds: measurements of each system in each setting; at least one more warms up.
        texts: token ids of the texts whose perplexity is wanted; none for no perplexity.
        seed: of the prompts' random tokens.
    """

    threads: Sequence[int]
    prompt_tokens: Sequence[int]
    new_tokens: int
    rounds: int
    texts: Sequence[Sequence[int]] = ()
    seed: int = 0


@attrs.define(kw_only=True)
class Findings:
    """All that was measured so far.

    Attributes:
        prepared: what preparing each system gave.
        timings: of each setting (threads, prompt tokens) and system, round by round.
        loaded: versions and settings that each system told.
        memory: bytes at most, in a fresh process.
        losses: negative log-likelihood in nats, of each system.
        scored: how many tokens that is.
        reasons: why a system was left out, wholly or from some point on.
        idle: of each system, seconds of processor time that it used while others were measured, and
            how long that was.
    """

    prepared: dict[str, str | None] = attrs.field(factory=dict)
    timings: dict[tuple[int, int], dict[str, list[Timing]]] = attrs.field(factory=dict)
    loaded: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    memory: dict[str, int] = attrs.field(factory=dict)
    losses: dict[str, float] = attrs.field(factory=dict)
    scored: int = 0
    reasons: dict[str, str] = attrs.field(factory=dict)
    idle: dict[str, tuple[float, float]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Comparison:
    """One comparison, from preparing the systems to the last figure.

    A system that fails is left out from there on, with the reason; the others go on.
    """

    model: Model
    systems: Sequence[System]
    plan: Plan
    launcher: Launcher
    say: Say
    findings: Findings = attrs.field(factory=Findings)

    @property
    def memory_context(self) -> int:
        """Tokens in the run whose memory is measured."""
        return min(MEMORY_CONTEXT, self.model.context_length)

    def run(self) -> Findings:
        """Measure everything."""
        self._prepare()
        for threads in self.plan.threads:
            self._measure_speed(threads)
        self._measure_memory()
        if self.plan.texts:
            self._measure_quality()
        return self.findings

    # The parts, in their order

    def _prepare(self) -> None:
        for system in self.systems:
            self.say(f"preparing {system.name}")
            with self._noted(system), self._worker(system) as worker:
                self.findings.prepared[system.name] = worker.ask(
                    "prepare",
                    module=system.module,
                    model=self.model.to_json(),
                    options=dict(system.options),
                )

    def _measure_speed(self, threads: int) -> None:
        longest = max(self.plan.prompt_tokens) + self.plan.new_tokens
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for system in self._remaining():
                self.say(f"loading {system.name}, {_count(threads, 'thread')}")
                with self._noted(system):
                    worker = stack.enter_context(self._worker(system, threads))
                    self._load(worker, system, threads, longest, "speed")
                    workers[system.name] = worker
            for length in self.plan.prompt_tokens:
                self._measure_setting(workers, threads, length)

    def _measure_setting(self, workers: dict[str, Worker], threads: int, length: int) -> None:
        timings = self.findings.timings.setdefault((threads, length), {})
        prompt = random_prompt(self.model.vocabulary_size, length, self.plan.seed)
        for number in range(self.plan.rounds + 1):
            what = f"round {number} of {self.plan.rounds}" if number else "warming up"
            self.say(f"{_count(threads, 'thread')}, prompt of {length} tokens: {what}")
            for system in self._remaining():
                with self._noted(system), self._watched(system, workers):
                    answer = workers[system.name].ask(
                        "run", prompt=prompt, new_tokens=self.plan.new_tokens
                    )
                    if number:
                        timings.setdefault(system.name, []).append(Timing(**answer))

    def _measure_memory(self) -> None:
        new_tokens = min(self.plan.new_tokens, self.memory_context // 2)
        length = self.memory_context - new_tokens
        prompt = random_prompt(self.model.vocabulary_size, length, self.plan.seed)
        threads = self.plan.threads[0]
        for system in self._remaining():
            self.say(f"memory of {system.name}")
            with self._noted(system), self._worker(system, threads) as worker:
                self._load(worker, system, threads, self.memory_context, "speed")
                worker.ask("run", prompt=prompt, new_tokens=new_tokens)
                self.findings.memory[system.name] = worker.ask("memory")

    def _measure_quality(self) -> None:
        size = min(WINDOW, self.model.context_length)
        pieces = [p for text in self.plan.texts for p in windows(text, size, size // 2)]
        self.findings.scored = sum(piece.scored for piece in pieces)
        context = max(len(piece.tokens) for piece in pieces)
        threads = max(self.plan.threads)
        for system in self._remaining():
            self.say(f"perplexity of {system.name}")
            with self._noted(system), self._worker(system, threads) as worker:
                self._load(worker, system, threads, context, "quality")
                self.findings.losses[system.name] = -sum(
                    worker.ask("score", tokens=piece.tokens, begin=piece.begin) for piece in pieces
                )

    # What they are made of

    def _remaining(self) -> list[System]:
        return [system for system in self.systems if system.name not in self.findings.reasons]

    def _worker(self, system: System, threads: int = 1) -> Worker:
        return self.launcher.worker(system.name, gem=system.is_gem, threads=threads)

    def _load(
        self, worker: Worker, system: System, threads: int, context: int, purpose: str
    ) -> None:
        request = LoadRequest(
            model=self.model,
            threads=threads,
            context=context,
            purpose=purpose,
            options=dict(system.options),
            prepared=self.findings.prepared[system.name],
        )
        told = worker.ask("load", module=system.module, request=request.to_json())
        self.findings.loaded.setdefault(system.name, told)

    @contextmanager
    def _noted(self, system: System) -> Iterator[None]:
        """Leave the system out from here on if it fails."""
        try:
            yield
        except SystemFailedError as error:
            self.say(f"leaving out {system.name}: {error}")
            self.findings.reasons[system.name] = str(error)

    @contextmanager
    def _watched(self, system: System, workers: dict[str, Worker]) -> Iterator[None]:
        """Note how busy the other workers are while this one is measured."""
        others = {name: worker for name, worker in workers.items() if name != system.name}
        before = {name: worker.busy_seconds() for name, worker in others.items()}
        began = time.perf_counter()
        yield
        elapsed = time.perf_counter() - began
        for name, worker in others.items():
            after, start = worker.busy_seconds(), before[name]
            if after is not None and start is not None:
                busy, waited = self.findings.idle.get(name, (0.0, 0.0))
                self.findings.idle[name] = (busy + after - start, waited + elapsed)


def random_prompt(vocabulary_size: int, length: int, seed: int) -> list[int]:
    """The same random tokens for every system: ids `[length]`."""
    ids = np.random.default_rng(seed).integers(0, vocabulary_size, length)
    return [int(token) for token in ids]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
