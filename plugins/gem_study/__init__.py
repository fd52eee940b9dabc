"""Studies: one question, several models, the suite for each, one page with the answer."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import MetricRecord, Option


@hookimpl
def gem_metrics() -> Iterator[MetricRecord]:
    """Yield `brittleness`; it needs the names 'reference' and 'compressed' in its results."""
    yield MetricRecord(
        name="brittleness",
        summary="how unevenly over domains compression costs (result files 'reference', 'compressed')",
        loader="gem_study.metrics:Brittleness",
        options=(
            Option(
                name="variant",
                type=str,
                default="text",
                choices=("task", "text", "answer"),
                help="scores of tasks, bits per byte of held-out text, or of the right answers",
            ),
            Option(name="resamples", type=int, default=2000, minimum=100, maximum=100_000),
            Option(name="seed", type=int, default=0, minimum=0, help="of the bootstrap"),
        ),
        capabilities=frozenset({"interval", "result-files"}),
    )
