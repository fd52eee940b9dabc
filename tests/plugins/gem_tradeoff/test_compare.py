"""Paired comparisons against loops and against scipy-free definitions of their own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_tradeoff.bootstrap import item_weights
from gem_tradeoff.compare import compare, mcnemar
from gem_tradeoff.results import parse_results
from gem_tradeoff.scores import VARIANTS, domain_scores
from gemcore.errors import UsageError


def parsed(make, *owns, **options):
    return [
        parse_results(make(number, own=own, **options), f"file{number}.json")
        for number, own in enumerate(owns)
    ]


@given(st.integers(0, 6), st.integers(0, 6))
def test_mcnemar_counts_the_outcomes_that_are_as_far_from_even(lost, won):
    outcomes = [sum(coins) for coins in itertools.product((0, 1), repeat=lost + won)]
    far = abs(lost - won)
    expected = sum(abs(2 * heads - lost - won) >= far for heads in outcomes) / len(outcomes)
    assert mcnemar(lost, won) == pytest.approx(expected)


def test_mcnemar_of_many_items_is_finite():
    assert 0 < mcnemar(1000, 1100) < 0.04
    assert mcnemar(0, 5000) == pytest.approx(0, abs=1e-300)


def test_differences_of_tasks_are_paired(make):
    files = parsed(make, None, "law", items=20)
    rows = {row.name: row for row in compare(files, resamples=200, seed=5) if row.level == "task"}
    assert list(rows) == list(files[0].tasks)
    before, after = (
        np.array([sample["acc_norm"] for sample in file.tasks["clauses"].samples]) for file in files
    )
    row = rows["clauses"]
    assert (row.before, row.after) == pytest.approx((before.mean(), after.mean()))
    draws = [
        np.repeat(np.arange(20), weights.astype(int))
        for weights in item_weights("clauses", 20, 200, 5)[1:]
    ]
    expected = np.percentile([(after[d] - before[d]).mean() for d in draws], [2.5, 97.5])
    assert (row.difference.low, row.difference.high) == pytest.approx(expected)
    lost, won = ((before > after).sum(), (after > before).sum())
    assert row.p == mcnemar(int(lost), int(won))
    # F1 from counts and bits per byte are not of right and wrong items.
    assert rows["diseases"].p is rows["corpus_law"].p is None


def test_better_and_worse_follow_the_sense_of_the_metric(make):
    files = parsed(make, None, "law", items=300)
    rows = {(row.level, row.name, row.metric): row for row in compare(files)}
    text = rows["task", "corpus_law", "bits_per_byte"]
    assert text.difference.high < 0
    assert text.better is True
    assert rows["domain", "law", "bits per byte"].better is True
    assert rows["domain", "law", "score above chance"].better is True
    backwards = {(row.level, row.name): row for row in compare(files[::-1])}
    assert backwards["task", "corpus_law"].better is False


def test_domains_are_those_of_the_trade_off(make):
    files = parsed(make, None, "law", "stem")
    rows = [row for row in compare(files, resamples=200) if row.level == "domain"]
    scores = domain_scores(files, VARIANTS["task"], resamples=200)
    part = [row for row in rows if row.metric == "score above chance"]
    assert [row.other for row in part] == ["file1.json", "file2.json"] * 3
    for row in part:
        column = scores.domains.index(row.name)
        model = int(row.other[4])
        assert row.before == scores.values[0, 0, column]
        assert row.after == scores.values[0, model, column]


def test_a_file_equals_itself(make):
    (file,) = parsed(make, None)
    for row in compare([file, file], resamples=100):
        assert (row.difference.value, row.difference.low, row.difference.high) == (0, 0, 0)
        assert row.better is None
        assert row.p in (None, 1.0)


def test_one_file_is_too_few(make):
    with pytest.raises(UsageError, match="at least 2 result files, and there is 1"):
        compare(parsed(make, None))
