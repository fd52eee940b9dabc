"""The measures as metric plugins, selected and made as the host does it."""

from __future__ import annotations

import pytest

import gem_tradeoff
from gem_tradeoff.analysis import MEASURES, analyse
from gem_tradeoff.results import parse_results, read_results
from gemcore.errors import GemError, UsageError
from gemcore.plugins import PluginHost
from gemcore.reports import MetricResult


@pytest.fixture
def host():
    host = PluginHost()
    host.add(gem_tradeoff, name="gem_tradeoff", distribution="gem-tradeoff")
    return host


def create(host, words):
    return host.create(host.select("metric", words))


def test_there_is_one_for_every_measure():
    assert [record.name for record in gem_tradeoff.gem_metrics()] == list(MEASURES)


@pytest.mark.parametrize("variant", ["task", "text", "answer"])
@pytest.mark.parametrize("name", MEASURES)
def test_values_are_those_of_the_analysis(host, files, name, variant):
    metric = create(host, f"{name}:variant={variant},resamples=150,seed=7")
    found = metric.compute({"base": files[0], "specialised": str(files[1])})
    report = analyse(
        read_results(files[0]),
        [(read_results(files[1]), "law")],
        variants=[variant],
        resamples=150,
        seed=7,
    )
    expected = report.variants[0].models[0].measures[name]
    assert found == MetricResult(
        value=expected.value,
        low=expected.low,
        high=expected.high,
        higher_is_better=name in ("dsi", "cdtr"),
        version=1,
    )


def test_content_and_domain_may_be_given(host, make):
    results = {"base": make(0), "specialised": make(1)}
    metric = create(host, "gg:resamples=100")
    law = metric.compute({**results, "domain": "law"}).value
    assert law != metric.compute({**results, "domain": "stem"}).value
    with pytest.raises(UsageError, match="specialised does not say for which domain"):
        metric.compute(results)


def test_what_is_missing_is_named(host):
    with pytest.raises(UsageError, match="needs 'base'.*; given are none"):
        create(host, "dsi").compute({})
    with pytest.raises(UsageError, match="needs 'specialised'.*; given are base"):
        create(host, "dsi").compute({"base": {}} | {"base": _content()})


def _content():
    # Enough for the first file to be read before the second is missed.
    task = {"acc,none": 0.5}
    config = {
        "domain": "law",
        "task_type": "multiple_choice",
        "main_metric": "acc",
        "chance": 0.5,
        "higher_is_better": True,
    }
    return {
        "results": {"t": task},
        "configs": {"t": config},
        "versions": {},
        "task_hashes": {},
        "samples": {"t": [{"doc_id": 0, "acc": 0}, {"doc_id": 1, "acc": 1}]},
        "config": {"model": "tiny"},
    }


def test_an_undefined_measure_is_an_error_that_says_why(host, make):
    tasks = {"law": {"guessed": ("acc", 0.5)}, "stem": {"sums": ("acc", 0.25)}}
    results = {
        "base": make(0, level=0.5, tasks=tasks),
        "specialised": make(1, level=0.5, tasks=tasks, own="law"),
    }
    with pytest.raises(GemError, match="'dsi' is undefined: score above chance on law of base is"):
        create(host, "dsi").compute(results)
    assert create(host, "gg").compute(results).value > 0


def test_content_is_not_changed(make):
    data = make(0)
    before = repr(data)
    parse_results(data, "base")
    assert repr(data) == before
