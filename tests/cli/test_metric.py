"""`gem eval metric`: metrics of plugins on the command line."""

import json
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from gemcore.cli import metric as module
from gemcore.cli.main import gem as command
from gemcore.errors import GemError, PluginError, UsageError
from gemcore.hookspecs import hookimpl
from gemcore.plugins import PluginHost
from gemcore.records import MetricRecord, Option
from gemcore.reports import MetricResult


class Mean:
    """The mean of `values`, times `factor`, as long as they are numbers."""

    def __init__(self, factor):
        self.factor = factor

    def compute(self, results):
        if results.get("name") == "odd":
            return 3
        if not results["values"]:
            raise GemError("there are no values")
        value = self.factor * sum(results["values"]) / len(results["values"])
        return MetricResult(value=value, low=value - 1, high=value + 1, higher_is_better=False)


@pytest.fixture
def call(monkeypatch):
    """Runs `gem eval metric` with the metric `mean` installed."""

    @hookimpl
    def gem_metrics():
        yield MetricRecord(
            name="mean",
            summary="a mean",
            loader="metric_of_this_test:Mean",
            options=(Option(name="factor", type=float, default=1.0),),
        )

    monkeypatch.setitem(sys.modules, "metric_of_this_test", SimpleNamespace(Mean=Mean))
    host = PluginHost()
    host.add(SimpleNamespace(gem_metrics=gem_metrics), name="gem_mean")
    monkeypatch.setattr(module, "get_host", lambda: host)

    def run(*words):
        settings = {"catch_exceptions": False, "standalone_mode": False}
        return CliRunner().invoke(command, ["eval", "metric", *words], **settings).output

    return run


def test_a_value_with_its_interval(call):
    assert call("mean:factor=2", "values=[1, 2]") == (
        "mean:factor=2.0 3   [2, 4]   (lower is better)\n"
    )


def test_values_come_from_files_and_words(call, tmp_path):
    (tmp_path / "all.json").write_text('{"values": [4, 6], "more": 1}')
    (tmp_path / "some.json").write_text("[1, 3]")
    found = json.loads(call("mean", str(tmp_path / "all.json"), "name=a b", "--json"))
    assert found == {
        "metric": "mean:factor=1.0",
        "value": 5.0,
        "low": 4.0,
        "high": 6.0,
        "higher_is_better": False,
        "version": 1,
    }
    assert call("mean", f"values={tmp_path / 'some.json'}").startswith("mean:factor=1.0 2 ")


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["values"], UsageError, "'values' is neither KEY=VALUE nor a .json file"),
        (["values=[1]", "values=[2]"], UsageError, "'values' is given twice"),
        (["values=nowhere.json"], UsageError, "no such file: nowhere.json"),
        (["values=[]"], GemError, "there are no values"),
        (["other=1"], PluginError, "metric 'mean' failed: KeyError: 'values'"),
        (["name=odd"], PluginError, "metric 'mean' gives int, not a MetricResult"),
    ],
)
def test_what_is_wrong_is_one_sentence(call, words, error, said):
    with pytest.raises(error) as raised:
        call("mean", *words)
    assert str(raised.value) == said


def test_files_that_are_no_results(call, tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match="holds no JSON object"):
        call("mean", str(tmp_path / "list.json"))
    with pytest.raises(UsageError, match="is not JSON"):
        call("mean", f"values={tmp_path / 'broken.json'}")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        call("mean", str(tmp_path / "folder.json"))
