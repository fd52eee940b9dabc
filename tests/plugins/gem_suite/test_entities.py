"""Entities: against conlleval's rules and exhaustive search."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from gem_suite.entities import (
    best_labelling,
    candidate_spans,
    count_matches,
    entity_spans,
    types_of,
)
from gem_suite.records import Entities

LABELS = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=9)


def conll_spans(labels):
    """The chunks of conlleval: where one starts and ends, decided between neighbours."""
    spans, start = [], None
    for place, label in enumerate([*labels, "O"]):
        before = labels[place - 1] if place else "O"
        starts = label != "O" and (label[0] == "B" or before[1:] != label[1:])
        if start is not None and (label == "O" or starts):
            spans.append((start, place, before[2:]))
            start = None
        if starts:
            start = place
    return spans


@given(labels=LABELS)
def test_spans_are_those_of_conlleval(labels):
    assert entity_spans(labels) == conll_spans(labels)


@given(predicted=LABELS, wanted=LABELS)
def test_counts_by_brute_force(predicted, wanted):
    one, other = entity_spans(predicted), entity_spans(wanted)
    right = sum(span in other for span in one)
    missed = sum(span not in one for span in other)
    assert count_matches(one, other) == (right, len(one) - right, missed)


@given(data=st.data())
def test_the_labelling_is_the_best_of_all(data):
    every = [(start, end) for start in range(5) for end in range(start + 1, 6)]
    spans = data.draw(st.lists(st.sampled_from(every), unique=True, max_size=6))
    number = st.integers(-4, 4).map(float)
    margins = [[data.draw(number), data.draw(number)] for _ in spans]

    def weight(chosen):
        return sum(max(margins[place]) * (spans[place][1] - spans[place][0]) for place in chosen)

    def disjoint(chosen):
        cells = [cell for place in chosen for cell in range(*spans[place])]
        return len(cells) == len(set(cells))

    best = max(
        weight(chosen)
        for size in range(len(spans) + 1)
        for chosen in combinations(range(len(spans)), size)
        if disjoint(chosen)
    )
    found = best_labelling(spans, margins, ["A", "B"])
    places = [spans.index(span[:2]) for span in found]
    assert disjoint(places)
    assert weight(places) == best
    for place, (_, _, kind) in zip(places, found, strict=True):
        assert margins[place]["AB".index(kind)] == max(margins[place]) > 0


def test_candidates_begin_and_end_with_content():
    tokens = ["The", "risk", "of", "breast", "cancer", ",", "or", "BRCA1", "."]
    texts = {
        " ".join(tokens[start:end]) for start, end in candidate_spans(tokens, Entities(longest=4))
    }
    expected = {"risk", "risk of breast", "risk of breast cancer", "breast", "breast cancer"}
    assert texts == expected | {"cancer", "BRCA1"}
    capitalised = candidate_spans(tokens, Entities(rule="capitalised"))
    assert capitalised == [(7, 8)]


@given(tokens=st.lists(st.sampled_from(["a", "X", "of", ",", "1", "y"]), max_size=8))
def test_candidates_are_as_long_as_they_may_be(tokens):
    spans = candidate_spans(tokens, Entities(longest=3))
    assert len(set(spans)) == len(spans)
    assert all(0 <= start < end <= min(len(tokens), start + 3) for start, end in spans)
    assert not any("," in tokens[start:end] for start, end in spans)


def test_types_keep_the_order_of_labels():
    assert types_of(["O", "B-b", "B-a", "I-a", "I-b"]) == ("b", "a")
