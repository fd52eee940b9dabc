"""Cards: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import json
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import FormatError
from gemcore.experts.card import (
    CARD_VERSION,
    MAX_RANK,
    DataSource,
    ExpertCard,
    is_unit,
    unit_kind,
    unit_order,
)
from gemcore.models.layout import EMBEDDING, weight_units
from gemcore.testing.tiny import tiny_config

lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
counts = st.integers(0, 2**63 - 1)
units = st.builds(
    "layers.{}.{}".format,
    st.integers(0, 9999),
    st.sampled_from(
        ["attention.qkv", "attention.out", "feed_forward.gate_up", "feed_forward.down"]
    ),
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
scores = st.dictionaries(
    st.text(),
    st.recursive(
        plain.filter(lambda value: not isinstance(value, float) or math.isfinite(value)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
cards = st.builds(
    ExpertCard,
    name=names,
    domain=lines,
    summary=lines,
    base=digests,
    base_name=lines,
    rank=st.integers(1, MAX_RANK),
    units=st.lists(units, min_size=1, max_size=6, unique=True),
    licence=lines,
    data=st.lists(
        st.builds(DataSource, name=lines, licence=lines, items=counts, bytes=counts), max_size=3
    ),
    command=lines | st.just(""),
    seed=counts,
    steps=counts,
    scores=scores,
    sha256=digests,
)

SOUND = {
    "format_version": CARD_VERSION,
    "name": "law",
    "domain": "law",
    "summary": "statutes and cases",
    "base": "0" * 64,
    "base_name": "tiny",
    "rank": 4,
    "units": ["layers.1.attention.qkv", "layers.0.feed_forward.down"],
    "licence": "Apache-2.0",
    "data": [{"name": "laws", "licence": "CC0-1.0", "items": 3, "bytes": 20}],
    "command": "gem experts train --domain law",
    "seed": 1,
    "steps": 10,
    "scores": {"main": {"name": "bits per byte", "base": 1.25, "expert": 1.0}},
    "sha256": "1" * 64,
}


@given(cards)
def test_a_card_comes_back_from_json_as_it_was(card):
    assert ExpertCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_the_sound_card_of_these_tests_is_sound():
    card = ExpertCard.from_json(SOUND)
    # Sorted by layer, and otherwise as it was.
    assert card.to_json() == SOUND | {"units": SOUND["units"][::-1]}


def test_units_are_those_of_the_decoder():
    known = [unit.name for unit in weight_units(tiny_config()) if unit.name != EMBEDDING]
    assert all(map(is_unit, known))
    assert sorted(known, key=unit_order) == known
    assert {unit_kind(name) for name in known} == {name.split(".", 2)[2] for name in known}
    assert not is_unit(EMBEDDING)
    assert not is_unit("layers.01.attention.qkv")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": CARD_VERSION + 1}, f"reads up to {CARD_VERSION}: install a newer GEM"),
        ({"format_version": "1"}, "'format_version' is '1'"),
        ({"format_version": True}, "'format_version' is True"),
        ({"name": "../law"}, "'name' is '../law'"),
        ({"name": "Law"}, "'name' is 'Law'"),
        ({"name": "a" * 65}, "'name' is 'aaa"),
        ({"summary": "two\nlines"}, "'summary' is 'two"),
        ({"summary": "\x1b[31mred"}, "not one line of text"),
        ({"licence": " "}, "'licence' is ' '"),
        ({"base": "0" * 63}, "'base' is '000"),
        ({"base": "G" * 64}, "64 hexadecimal digits"),
        ({"rank": 0}, f"'rank' is 0, not a whole number from 1 to {MAX_RANK}"),
        ({"rank": 10**9}, "'rank' is 1000000000"),
        ({"rank": 4.0}, "'rank' is 4.0"),
        ({"rank": True}, "'rank' is True"),
        ({"units": []}, "'units' is []"),
        ({"units": "layers.0.attention.qkv"}, "not a list"),
        ({"units": ["embedding"]}, "names 'embedding', which is no weight unit"),
        ({"units": ["layers.0.attention.q"]}, "layers.N.attention.qkv, layers.N.attention.out"),
        ({"units": ["layers.0.attention.qkv"] * 2}, "names 'layers.0.attention.qkv' twice"),
        ({"units": [["layers.0.attention.qkv"]]}, "no weight unit"),
        ({"data": {}}, "'data' is {}, not a list"),
        ({"data": [3]}, "a data source must be a JSON object, not int"),
        ({"data": [{"name": "x"}]}, "a data source lacks the fields licence, items, bytes"),
        (
            {"data": [{"name": "x", "licence": "y", "items": -1, "bytes": 1}]},
            "'items' is -1, not a whole number from 0",
        ),
        ({"command": "a\nb"}, "'command' is 'a"),
        ({"seed": -1}, "'seed' is -1"),
        ({"scores": []}, "'scores' is [], not an object"),
        ({"scores": {"x": math.nan}}, "finite numbers"),
        ({"sha256": ""}, "'sha256' is ''"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_wrong_fields_are_named(changes, words):
    with pytest.raises(FormatError) as caught:
        ExpertCard.from_json(SOUND | changes, "card.json")
    text = str(caught.value)
    assert text.startswith("card.json cannot be used: ")
    assert words in text
    assert "\n" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("name", SOUND)
def test_missing_fields_are_named(name):
    values = {key: value for key, value in SOUND.items() if key != name}
    with pytest.raises(FormatError, match=name):
        ExpertCard.from_json(values)


@pytest.mark.parametrize("values", [None, [], "card", 3])
def test_other_json_is_no_card(values):
    with pytest.raises(FormatError, match="it must be a JSON object"):
        ExpertCard.from_json(values)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, ""),
        ({"main": {"name": "bits per byte", "base": 1.25, "expert": 1.0}},
         "bits per byte 1 (base 1.25, -20.0 %)"),
        ({"main": {"name": "loss", "base": 0, "expert": 1}}, "loss 1 (base 0)"),
        ({"main": {"name": "x\n", "base": 1, "expert": 1}}, ""),
        ({"main": {"name": "x", "base": "1", "expert": 1}, "accuracy": 0.5}, "accuracy 0.5"),
        ({"note": "none", "passed": True, "f1": 0.25, "recall": 1}, "f1 0.25"),
        ({"large": 10**400}, ""),
    ],
)  # fmt: skip
def test_the_main_score_in_words(found, words):
    card = ExpertCard.from_json(SOUND)
    assert attrs.evolve(card, scores=found).main_score == words
