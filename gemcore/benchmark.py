"""Timing a session: prefill, decode, time to first token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from gemcore.errors import UsageError
from gemcore.runtime.memory import peak_memory_bytes

if TYPE_CHECKING:
    from gemcore.session import Session


@attrs.frozen(kw_only=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median and extremes of `values`."""
        return cls(median=statistics.median(values), lowest=min(values), highest=max(values))


@attrs.frozen(kw_only=True)
class BenchmarkResult:
    """What was measured.

    Attributes:
        prefill: tokens a second over the prompt.
        decode: tokens a second after the first token, one at a time.
        ttft: milliseconds from the prompt's tokens to the first generated token.
        peak_memory: megabytes (10**6 bytes) of this process, weights and libraries included.
    """

    prompt_tokens: int
    new_tokens: int
    threads: int
    repetitions: int
    prefill: Spread
    decode: Spread
    ttft: Spread
    peak_memory: float

    def to_json(self) -> dict[str, Any]:
        """Medians under the usual names, and the spreads beside them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "threads": self.threads,
            "repetitions": self.repetitions,
            "prefill_tokens_per_s": self.prefill.median,
            "decode_tokens_per_s": self.decode.median,
            "ttft_ms": self.ttft.median,
            "peak_memory_mb": self.peak_memory,
            "spread": {
                "prefill_tokens_per_s": [self.prefill.lowest, self.prefill.highest],
                "decode_tokens_per_s": [self.decode.lowest, self.decode.highest],
                "ttft_ms": [self.ttft.lowest, self.ttft.highest],
            },
        }


def measure(
    session: Session, *, prompt_tokens: int, new_tokens: int, threads: int, repetitions: int
) -> BenchmarkResult:
    """Time a session on a prompt of random tokens, after one run that does not count.

    Tokenizing and sampling are left out, except that each next token is the likeliest one.
    """
    _check(session, prompt_tokens, new_tokens, repetitions)
    ids = np.random.default_rng(0).integers(0, session.config.vocabulary_size, prompt_tokens)
    prompt = ids.tolist()
    _once(session, prompt, min(new_tokens, 8))
    runs = [_once(session, prompt, new_tokens) for _ in range(repetitions)]
    return BenchmarkResult(
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        threads=threads,
        repetitions=repetitions,
        prefill=Spread.of([prompt_tokens / first for first, _ in runs]),
        decode=Spread.of([(new_tokens - 1) / rest for _, rest in runs]),
        ttft=Spread.of([first * 1e3 for first, _ in runs]),
        peak_memory=peak_memory_bytes() / 1e6,
    )


def _once(session: Session, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and from there to the last."""
    session.forget()
    begin = time.perf_counter()
    token = int(session.feed(prompt).argmax())
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        token = int(session.feed([token]).argmax())
    return first - begin, time.perf_counter() - first


def _check(session: Session, prompt_tokens: int, new_tokens: int, repetitions: int) -> None:
    for name, value, least in (
        ("prompt-tokens", prompt_tokens, 1),
        ("new-tokens", new_tokens, 2),
        ("repetitions", repetitions, 1),
    ):
        if value < least:
            raise UsageError(f"--{name} must be at least {least}, not {value}")
    context = session.config.context_length
    if prompt_tokens + new_tokens > context:
        raise UsageError(
            f"{prompt_tokens} + {new_tokens} tokens do not fit the model's context of {context}"
        )
