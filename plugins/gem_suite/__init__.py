"""The benchmark suite: 47 benchmarks in eight domains, their prompts, scores and aggregates."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import BenchmarkRecord


@hookimpl
def gem_benchmarks() -> Iterator[BenchmarkRecord]:
    """Yield GEM's own benchmarks."""
    yield BenchmarkRecord(
        name="gem-47",
        summary="47 benchmarks in eight domains",
        loader="gem_suite.sources:builtin",
        capabilities=frozenset(
            {"choices", "classification", "entities", "generation", "perplexity"}
        ),
    )
