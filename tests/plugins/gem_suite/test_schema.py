"""The schema of items: what is right is kept, what is wrong is named."""

from __future__ import annotations

import pytest

from gem_suite.errors import DataError
from gem_suite.schema import TASK_TYPES, parse_document

KINDS = [kind for kind in TASK_TYPES if kind != "corpus"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_item_is_kept_whole(items, kind):
    values = items[kind]
    document = parse_document(values, "here", 7)
    assert document.index == 7
    for name, value in values.items():
        kept = getattr(document, name)
        assert (list(kept) if isinstance(value, list) else kept) == value


def test_null_is_as_absent(items):
    document = parse_document(items["classification"] | {"context": None, "turns": None}, "", 0)
    assert document.context == ""
    assert document.turns == ()


BAD = [
    ("multiple_choice", {"answer": 3}, "'answer' is 3, out of range: 'choices' has 3 entries"),
    ("multiple_choice", {"answer": -1}, "out of range"),
    ("multiple_choice", {"answer": True}, "'answer' is True"),
    ("multiple_choice", {"answer": "0"}, "must be an index of 'choices'"),
    ("multiple_choice", {"choices": []}, "'choices' holds 0 entries"),
    ("multiple_choice", {"choices": ["a", " "]}, "entry 1 of 'choices' is empty"),
    ("multiple_choice", {"choices": ["a", 1]}, "must be a list of texts"),
    ("multiple_choice", {"choices": "ab"}, "must be a list of texts"),
    ("multiple_choice", {"question": ""}, "no 'question' or 'context'"),
    ("multiple_choice", {"question": 5}, "'question' is 5: it must be text"),
    ("classification", {"label_names": ["good"]}, "at least 2"),
    ("classification", {"label_names": ["good", "good"]}, "the same name twice"),
    ("classification", {"answer": 2}, "out of range"),
    ("token_classification", {"answer": [0]}, "1 labels for 4 tokens"),
    ("token_classification", {"answer": 0}, "no list of labels"),
    ("token_classification", {"answer": [0, 0, 3, 0]}, "out of range"),
    ("token_classification", {"answer": [0, 0, "1", 0]}, "whole numbers only"),
    ("token_classification", {"label_names": ["O", "Disease", "I-Disease"]}, "neither 'O' nor"),
    ("token_classification", {"tokens": []}, "no 'tokens'"),
    ("generation_qa", {"answer": 4}, "must be text"),
    ("generation_qa", {"answer": ""}, "'answer' is empty"),
    ("extractive_qa", {"question": ""}, "no 'question'"),
    ("lm_perplexity", {"text": ""}, "no 'text'"),
    ("open_ended", {"answer": None}, "must be an index, a list of them, or text"),
    ("open_ended", {"task_type": "essay"}, "'task_type' is 'essay', which is none of"),
]


@pytest.mark.parametrize(("kind", "change", "message"), BAD)
def test_a_bad_item_is_named(items, kind, change, message):
    with pytest.raises(DataError) as caught:
        parse_document(items[kind] | change, "file, line 3", 0)
    assert str(caught.value).startswith("file, line 3: ")
    assert message in str(caught.value)


def test_an_item_needs_an_answer(items):
    del items["lm_perplexity"]["answer"]
    with pytest.raises(DataError, match="it has no 'answer'"):
        parse_document(items["lm_perplexity"], "", 0)


def test_an_unanswerable_question_has_the_empty_reference(items):
    document = parse_document(items["extractive_qa"] | {"answer": ""}, "", 0)
    assert document.references == ("",)


def test_long_values_are_cut_in_messages(items):
    with pytest.raises(DataError) as caught:
        parse_document(items["classification"] | {"text": list(range(9999))}, "", 0)
    assert len(str(caught.value)) < 200
