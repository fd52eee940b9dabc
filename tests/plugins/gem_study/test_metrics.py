"""Brittleness as a metric plugin."""

from __future__ import annotations

import pytest

import gem_study
from gem_study.analysis import study_compression
from gem_study.metrics import Brittleness
from gemcore.errors import GemError, UsageError


def test_the_metric_is_that_of_the_study(make, measured, files):
    cell = study_compression(measured, variants=["text"], resamples=200).variants[0]
    found = Brittleness(resamples=200).compute({"reference": files[0], "compressed": str(files[3])})
    expected = cell.precisions[2].brittleness
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
    assert found.higher_is_better is False


def test_what_is_missing_is_said(make, files):
    with pytest.raises(UsageError, match="needs 'compressed', .* given are reference"):
        Brittleness().compute({"reference": files[0]})
    data = [make({}, quantizer=name) for name in ("f16", "q8-g32")]
    for values in data:
        for field in ("results", "configs", "samples", "versions", "task_hashes"):
            values[field] = {k: v for k, v in values[field].items() if k.endswith("law")}
    with pytest.raises(GemError, match="'brittleness' is undefined: a spread over domains needs"):
        Brittleness().compute(dict(zip(("reference", "compressed"), data, strict=True)))


def test_the_plugin_says_what_it_has():
    (record,) = gem_study.gem_metrics()
    assert record.name == "brittleness"
    assert {option.name for option in record.options} == {"variant", "resamples", "seed"}
