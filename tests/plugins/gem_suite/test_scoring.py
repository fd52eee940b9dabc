"""Scores of single items against lm-evaluation-harness's formulas, written down again."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.catalog import make_benchmark, without_calibration
from gem_suite.errors import TaskError
from gem_suite.prompts import build_request
from gem_suite.requests import Outcome
from gem_suite.schema import parse_document
from gem_suite.scoring import calibrated, score

NATS = st.floats(-300, -0.001)


def benchmark(task_type, **values):
    return make_benchmark({"name": "x", "domain": "d", "task_type": task_type, **values})


def scored(record, document, likelihoods=(), text=""):
    request = build_request(record, document)
    return score(record, document, request, Outcome(likelihoods=tuple(likelihoods), text=text))


@given(data=st.data())
def test_choices_are_scored_as_in_lm_eval(data):
    choices = data.draw(st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=5))
    choices = [choice if choice.strip() else "x" for choice in choices]
    likelihoods = [data.draw(NATS) for _ in choices]
    gold = data.draw(st.integers(0, len(choices) - 1))
    record = benchmark(
        "multiple_choice", metrics=["acc", "acc_norm", "acc_bytes", "mrr"], metric="acc_norm"
    )
    document = parse_document(
        {"task_type": "multiple_choice", "question": "?", "choices": choices, "answer": gold}, "", 5
    )
    sample = scored(record, document, likelihoods)
    completion_len = np.array([float(len(choice)) for choice in choices])
    byte_length = np.array([float(len(choice.encode("utf-8"))) for choice in choices])
    assert sample["doc_id"] == 5
    assert sample["acc"] == float(np.argmax(likelihoods) == gold)
    assert sample["acc_norm"] == float(np.argmax(likelihoods / completion_len) == gold)
    assert sample["acc_bytes"] == float(np.argmax(likelihoods / byte_length) == gold)
    assert sample["prediction"] == np.argmax(likelihoods / completion_len)
    assert sample["mrr"] == 1 / (sorted(likelihoods, reverse=True).index(likelihoods[gold]) + 1)
    assert sample["bits"] == pytest.approx(-likelihoods[gold] / math.log(2))
    assert sample["bytes"] == len(f" {choices[gold]}".encode())


@given(data=st.data(), labels=st.integers(2, 5), prompts=st.integers(1, 3))
def test_calibration_is_that_of_zhao(data, labels, prompts):
    nats = st.floats(-30, -0.001)
    row = np.array([data.draw(nats) for _ in range(labels)])
    free = np.array([[data.draw(nats) for _ in range(labels)] for _ in range(prompts)])
    p = np.exp(row) / np.exp(row).sum()
    p_free = (np.exp(free) / np.exp(free).sum(axis=1, keepdims=True)).mean(axis=0)
    q = (np.diag(1 / p_free) @ p) / (np.diag(1 / p_free) @ p).sum()
    found = np.exp(calibrated(row, free))
    assert found / found.sum() == pytest.approx(q, rel=1e-6)


@given(row=st.lists(NATS, min_size=2, max_size=5))
def test_an_even_baseline_changes_no_choice(row):
    likelihoods = np.array(row)
    assert np.argmax(calibrated(likelihoods, np.full((2, len(row)), -7.0))) == np.argmax(
        np.round(likelihoods, 9)
    ) or len(set(np.round(row, 6))) < len(row)


def test_calibration_survives_impossible_labels():
    found = calibrated(np.array([-math.inf, -1.0]), np.array([[-2.0, -math.inf], [-2.0, -3.0]]))
    assert np.argmax(found) == 1
    assert not np.isnan(found).any()


def test_a_biased_label_loses_its_lead(items):
    record = benchmark("classification", prompt={"fillers": ["N/A"]})
    document = parse_document(items["classification"], "", 0)
    # "bad" is likelier throughout, but "good" gains over the content-free prompt.
    sample = scored(record, document, [-1.0, -1.5, -0.5, -4.0])
    assert (sample["acc"], sample["acc_calibrated"], sample["prediction"]) == (0.0, 1.0, 1)
    plain = scored(without_calibration(record), document, [-1.0, -1.5])
    assert "acc_calibrated" not in plain
    assert plain["prediction"] == 0


def test_subdomains_are_kept_where_they_count(items):
    document = parse_document(items["classification"] | {"subdomain": "s"}, "", 0)
    metrics = ["acc", "balanced_acc"]
    record = benchmark("classification", metric="acc", metrics=metrics, prompt={"fillers": []})
    assert scored(record, document, [-1, -2])["group"] == "s"


@pytest.mark.parametrize(
    ("record", "text", "prediction", "right"),
    [
        ({"answer_type": "number"}, "2 + 2 = 4, so 4", "4", 1.0),
        ({"answer_type": "number"}, "4 or 5", "5", 0.0),
        ({"answer_type": "number"}, "none", "none", 0.0),
        ({"answer_type": "math"}, r"thus \boxed{4}", "4", 1.0),
        ({"answer_type": "math"}, r"thus \boxed{5}", "5", 0.0),
        ({"answer_type": "text"}, " 4.\nmore", "4.", 1.0),
        ({"answer_type": "text"}, "four", "four", 0.0),
        ({"answer_type": "mixed"}, "$4.00", "$4.00", 1.0),
        ({"answer_type": "mixed"}, "4 million", "4 million", 0.0),
    ],
)
def test_generated_answers(items, record, text, prediction, right):
    document = parse_document(items["generation_qa"], "", 0)
    sample = scored(benchmark("generation_qa", **record), document, [-3.0], text)
    assert (sample["prediction"], sample["exact_match"]) == (prediction, right)
    assert sample["target"] == "4"
    assert (sample["bits"], sample["bytes"]) == (pytest.approx(3 / math.log(2)), 2)


def test_what_is_no_number_is_compared_as_words(items):
    document = parse_document(items["generation_qa"] | {"answer": "True"}, "", 0)
    record = benchmark("generation_qa", answer_type="number")
    assert scored(record, document, [-1], "The answer is true.")["exact_match"] == 1.0
    assert scored(record, document, [-1], "3")["exact_match"] == 0.0


def test_every_language_has_its_rules(items):
    values = items["extractive_qa"] | {"lang": "zh", "answer": "北京", "answers": ["北京", "京"]}
    document = parse_document(values, "", 0)
    sample = scored(benchmark("extractive_qa"), document, [-1], "在北京")
    assert sample["f1"] == pytest.approx(2 * 2 / (3 + 2))


@pytest.mark.parametrize(
    ("answer", "text", "f1"),
    [("", "Unanswerable.", 1.0), ("", "", 1.0), ("", "Ada", 0.0), ("Ada", "unanswerable", 0.0)],
)
def test_questions_without_answers(items, answer, text, f1):
    document = parse_document(items["extractive_qa"] | {"answer": answer}, "", 0)
    record = benchmark("extractive_qa", unanswerable="unanswerable")
    assert scored(record, document, [-1], text)["f1"] == f1


def test_entities_are_counted(items):
    record = benchmark("token_classification", entities={"others": ["a word", "an idea"]})
    document = parse_document(items["token_classification"], "", 0)
    # One candidate: the likeliest other thing stands against the disease.
    sample = scored(record, document, [-5.0, -2.0, -1.0])
    assert sample["counts"] == [1, 0, 0]
    assert sample["prediction"] == sample["target"] == [[2, 3, "Disease"]]
    assert sample["bits"] == pytest.approx(1 / math.log(2))
    assert sample["bytes"] == len(" Disease")
    assert scored(record, document, [-5.0, -0.5, -1.0])["counts"] == [0, 0, 1]
    healthy = attrs.evolve(document, answer=(0, 0, 0, 0))
    sample = scored(record, healthy, [-5.0, -2.0, -1.0])
    assert sample["counts"] == [0, 1, 0]
    assert "bits" not in sample


def test_entities_are_calibrated_where_there_are_fillers(items):
    record = benchmark(
        "token_classification", entities={"others": ["a word"]}, prompt={"fillers": ["N/A"]}
    )
    document = parse_document(items["token_classification"], "", 0)
    assert scored(record, document, [-5.0, -1.0, -2.0, -2.0])["counts"] == [1, 0, 0]
    # The content-free prompt favours a disease even more.
    assert scored(record, document, [-5.0, -1.0, -9.0, -2.0])["counts"] == [0, 0, 1]


def test_a_sentence_without_candidates_has_no_entities(items):
    record = without_calibration(benchmark("token_classification"))
    document = parse_document(
        items["token_classification"] | {"tokens": [","], "answer": [0]}, "", 0
    )
    assert scored(record, document)["counts"] == [0, 0, 0]


def test_texts_have_bits_bytes_and_words(items):
    document = parse_document(items["lm_perplexity"] | {"text": "é b"}, "", 0)
    sample = scored(benchmark("lm_perplexity"), document, [-math.log(2) * 8])
    assert sample == {"doc_id": 0, "bits": pytest.approx(8.0), "bytes": 4, "words": 2}


def test_references_of_all_turns_are_summed(items):
    values = items["open_ended"] | {"turns": ["a", "b"], "answers": ["x", "yz"], "answer": "x"}
    sample = scored(benchmark("open_ended"), parse_document(values, "", 0), [-1.0, -2.0])
    assert (sample["bits"], sample["bytes"]) == (pytest.approx(3 / math.log(2)), 5)


@pytest.mark.parametrize(
    ("likelihoods", "message"),
    [([-1.0], "1 log-likelihoods for 2 texts"), ([-1.0, math.nan], "not numbers"),
     ([math.inf, -1], "not numbers")],
)  # fmt: skip
def test_an_engine_that_fails_is_named(items, likelihoods, message):
    record = without_calibration(benchmark("classification"))
    document = parse_document(items["classification"], "", 3)
    with pytest.raises(TaskError, match="task 'x', item 3") as caught:
        scored(record, document, likelihoods)
    assert message in str(caught.value)
