"""What type checkers know of selections: every kind has its record and its protocol.

Checked by mypy and by pyright in `make check`; never run.
"""

from pathlib import Path
from typing import Any, assert_type

from gemcore.plugins import PluginHost, Selection, get_host
from gemcore.protocols import BenchmarkSource, Metric, ModelSource, Quantizer, Router, Target
from gemcore.records import (
    BenchmarkRecord,
    ExpertSetRecord,
    MetricRecord,
    ModelSourceRecord,
    PluginRecord,
    QuantizerRecord,
    RouterRecord,
    TargetRecord,
)
from gemcore.reports import DeviceProfile, MetricResult

assert_type(get_host(), PluginHost)


def selections(host: PluginHost, kind: str) -> None:
    """A literal kind gives a selection of its record."""
    assert_type(host.select("router", "scar:top_p=0.9"), Selection[RouterRecord])
    assert_type(host.select("quantizer", {"name": "q8-g32"}), Selection[QuantizerRecord])
    assert_type(host.select("metric", "dsi"), Selection[MetricRecord])
    assert_type(host.select("target", "host"), Selection[TargetRecord])
    assert_type(host.select("model source", "files"), Selection[ModelSourceRecord])
    assert_type(host.select("benchmarks", "mine"), Selection[BenchmarkRecord])
    assert_type(host.select("expert set", "clinic"), Selection[ExpertSetRecord])
    assert_type(host.select(kind, "none"), Selection[PluginRecord])
    assert_type(host.selections("metric"), tuple[Selection[MetricRecord], ...])
    assert_type(host.select("expert set", "clinic").record.base_name, str)
    assert_type(host.selections("model source")[0].record.order, int)


def objects(host: PluginHost, kind: str) -> None:
    """What is made of a selection has the kind's protocol."""
    assert_type(host.create(host.select("router", "none")), Router)
    assert_type(host.create(host.select("quantizer", "q8-g32")), Quantizer)
    assert_type(host.create(host.select("metric", "dsi")), Metric)
    assert_type(host.create(host.select("target", "host")), Target)
    assert_type(host.create(host.select("model source", "files")), ModelSource)
    assert_type(host.create(host.select("benchmarks", "mine")), BenchmarkSource)
    assert_type(host.create(host.select("expert set", "clinic")), Path)
    assert_type(host.create(host.select(kind, "none")), Any)
    assert_type(host.create(host.select("metric", "dsi")).compute({}), MetricResult)
    assert_type(host.create(host.select("target", "host")).profile(), DeviceProfile)


def records(host: PluginHost, kind: str) -> None:
    """All records of a kind."""
    assert_type(host.records("router"), tuple[RouterRecord, ...])
    assert_type(host.records("expert set"), tuple[ExpertSetRecord, ...])
    assert_type(host.records(kind), tuple[PluginRecord, ...])
    assert_type(host.quantizers(), tuple[QuantizerRecord, ...])


def any_selection(selection: Selection[PluginRecord]) -> str:
    """A selection of one kind is a selection."""
    return selection.words


def accepted(host: PluginHost) -> None:
    """Selections are covariant in their record."""
    any_selection(host.select("target", "host"))


def refused(host: PluginHost) -> None:
    """What must not pass: an unused ignore is an error of both checkers."""
    host.create("none")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    host.select("router", 3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    RouterRecord(name="none")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    host.create(host.select("metric", "dsi")).prior("")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
