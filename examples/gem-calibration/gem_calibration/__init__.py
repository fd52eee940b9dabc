"""gem-calibration: a metric for GEM.

GEM imports this module for every command, so it imports neither torch nor tvm; `metric.py` may.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemcore import hookimpl
from gemcore.records import MetricRecord, Option


@hookimpl
def gem_metrics() -> Iterator[MetricRecord]:
    """Yield the metric `calibration`."""
    yield MetricRecord(
        name="calibration",
        summary="expected calibration error (needs 'confidence' and 'correct', a value an answer)",
        loader="gem_calibration.metric:CalibrationMetric",
        reference_url="https://arxiv.org/abs/1706.04599",
        options=(
            Option(name="bins", type=int, default=10, minimum=1, help="equal parts of 0 to 1"),
            Option(name="resamples", type=int, default=1000, minimum=100, help="of the bootstrap"),
            Option(name="seed", type=int, default=0, minimum=0, help="of the bootstrap"),
        ),
        capabilities=frozenset({"interval"}),
    )
