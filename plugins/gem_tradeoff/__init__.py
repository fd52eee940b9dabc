"""GEM's measures of the trade-off between domains, computed from result files of `gem eval suite`."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import MetricRecord, Option

_SUMMARIES = {
    "dsi": "Domain Specialization Index: gain at home less mean gain elsewhere",
    "gg": "Generalization Gap: how much the lead of the home domain has grown",
    "cdtr": "Cross-Domain Transfer Ratio: what is left of the base's score elsewhere",
    "forgetting": "mean relative loss in the domains that were not trained for",
}

_OPTIONS = (
    Option(
        name="variant",
        type=str,
        default="task",
        choices=("task", "text", "answer"),
        help="scores of tasks, bits per byte of held-out text, or of the tasks' right answers",
    ),
    Option(name="resamples", type=int, default=2000, minimum=100, maximum=100_000),
    Option(name="seed", type=int, default=0, minimum=0, help="of the bootstrap"),
)


@hookimpl
def gem_metrics() -> Iterator[MetricRecord]:
    """Yield the four measures; each needs the names 'base' and 'specialised' in its results."""
    for name, summary in _SUMMARIES.items():
        yield MetricRecord(
            name=name,
            summary=f"{summary} (from result files 'base' and 'specialised')",
            loader=f"gem_tradeoff.metrics:{name}",
            reference_url="https://arxiv.org/abs/2503.22698",
            options=_OPTIONS,
            capabilities=frozenset({"interval", "result-files"}),
        )
