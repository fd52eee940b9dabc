"""Aggregates against plain definitions, and standard errors against lm-evaluation-harness."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.aggregate import MEANS, aggregate, mean_with_error, metric_value
from gem_suite.errors import TaskError
from gem_suite.records import METRICS

CLASSES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20)


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_the_error_of_a_mean_is_that_of_lm_eval(values):
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    found, error = mean_with_error(values)
    assert found == pytest.approx(mean, abs=1e-9)
    assert error == pytest.approx(deviation / math.sqrt(len(values)), abs=1e-9)


def test_one_item_has_no_error(benchmarks):
    sample = {"target": 0, "prediction": 0, "acc": 1.0, "bits": 2.0, "bytes": 4}
    results = aggregate(benchmarks["winogrande"], [sample])
    assert results == {
        "alias": "winogrande",
        "acc,none": 1.0,
        "acc_stderr,none": "N/A",
        "bits_per_byte,none": 0.5,
        "bits_per_byte_stderr,none": "N/A",
    }
    json.dumps(results, allow_nan=False)


def test_no_item_is_an_error(benchmarks):
    with pytest.raises(TaskError, match="task 'piqa' has no items"):
        aggregate(benchmarks["piqa"], [])


def f1_of(pairs, label):
    right = sum(target == prediction == label for target, prediction in pairs)
    wrong = sum((target == label) != (prediction == label) for target, prediction in pairs)
    return 2 * right / (2 * right + wrong)


@given(pairs=CLASSES)
def test_f1_over_classes(pairs):
    samples = [{"target": target, "prediction": prediction} for target, prediction in pairs]
    occurring = sorted({label for pair in pairs for label in pair})
    macro = sum(f1_of(pairs, label) for label in occurring) / len(occurring)
    weighted = sum(f1_of(pairs, target) for target, _ in pairs) / len(pairs)
    assert metric_value("f1_macro", samples, resamples=2)[0] == pytest.approx(macro)
    assert metric_value("f1_weighted", samples, resamples=2)[0] == pytest.approx(weighted)


@given(pairs=CLASSES, groups=st.randoms(use_true_random=False))
def test_balanced_accuracy_is_the_mean_over_groups_and_classes(pairs, groups):
    rows = [(target, prediction, groups.choice("ab")) for target, prediction in pairs]
    samples = [dict(zip(("target", "prediction", "group"), row, strict=True)) for row in rows]
    per_group = []
    for group in {row[2] for row in rows}:
        own = [row for row in rows if row[2] == group]
        recalls = []
        for label in {row[0] for row in own}:
            hits = [row[1] == label for row in own if row[0] == label]
            recalls.append(sum(hits) / len(hits))
        per_group.append(sum(recalls) / len(recalls))
    expected = sum(per_group) / len(per_group)
    assert metric_value("balanced_acc", samples, resamples=2)[0] == pytest.approx(expected)


@given(counts=st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=10))
def test_entity_scores_come_from_summed_counts(counts):
    samples = [{"counts": list(count)} for count in counts]
    right, spurious, missed = (sum(column) for column in zip(*counts, strict=True))
    precision = right / (right + spurious) if right + spurious else 0.0
    recall = right / (right + missed) if right + missed else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert metric_value(name, samples, resamples=2)[0] == pytest.approx(expected)


@given(
    rows=st.lists(
        st.tuples(st.floats(0, 100), st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=9
    )
)
def test_bits_are_weighted_as_in_lm_eval(rows):
    samples = [dict(zip(("bits", "bytes", "words"), row, strict=True)) for row in rows]
    bits, size, words = (sum(column) for column in zip(*rows, strict=True))
    nats = bits * math.log(2)
    found = {
        name: metric_value(name, samples, resamples=2)[0]
        for name in ("bits_per_byte", "byte_perplexity", "word_perplexity")
    }
    assert found["bits_per_byte"] == pytest.approx(nats / size / math.log(2))
    assert found["byte_perplexity"] == pytest.approx(math.exp(nats / size))
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / words))


def test_items_without_reference_count_for_nothing():
    samples = [{"bits": 6.0, "bytes": 3}, {}, {"counts": [0, 0, 0]}]
    value, error = metric_value("bits_per_byte", samples)
    assert value == 2.0
    assert error == 0.0


def test_the_bootstrap_agrees_with_one_made_by_hand():
    generator = random.Random(3)
    rows = [(generator.randint(0, 3), generator.randint(0, 3)) for _ in range(60)]
    samples = [{"counts": [right, wrong, 1]} for right, wrong in rows]
    _, error = metric_value("f1", samples, resamples=2000)
    values = []
    for _ in range(2000):
        drawn = generator.choices(rows, k=len(rows))
        right, wrong = (sum(column) for column in zip(*drawn, strict=True))
        values.append(2 * right / (2 * right + wrong + len(drawn)))
    _, of_one = mean_with_error(values)
    assert error == pytest.approx(of_one * math.sqrt(len(values)), rel=0.1)
    assert metric_value("f1", samples, resamples=2000)[1] == error
    assert metric_value("f1", samples, resamples=2000, seed=1)[1] != error


def test_a_mean_has_about_the_error_of_its_bootstrap():
    samples = [{"bits": float(place % 3), "bytes": 1} for place in range(90)]
    _, error = metric_value("bits_per_byte", samples, resamples=4000)
    _, exact = mean_with_error([float(place % 3) for place in range(90)])
    assert error == pytest.approx(exact, rel=0.08)


def test_every_metric_can_be_had(benchmarks):
    sample = {
        "target": 0, "prediction": 0, "counts": [1, 0, 0], "bits": 1.0, "bytes": 1, "words": 1,
    }  # fmt: skip
    means = {name: 1.0 for name in MEANS if name != "f1"}
    for name in METRICS:
        value, error = metric_value(name, [{**sample, **means}] * 2)
        assert value == (2.0 if "perplexity" in name else 1.0)
        assert error == 0.0
