"""Few-shot examples: the same draw every time, never the item itself."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.catalog import make_benchmark
from gem_suite.errors import TaskError
from gem_suite.fewshot import choose_examples
from gem_suite.schema import Document


def record(**few_shot):
    return make_benchmark(
        {"name": "x", "domain": "d", "task_type": "classification", "few_shot": few_shot}
    )


def pool(size):
    return [
        Document(
            index=place,
            id=str(place),
            task_type="classification",
            answer=place % 3,
            label_names=("a", "b", "c"),
            lang="de" if place % 4 else "en",
            text="t",
        )
        for place in range(size)
    ]


@given(count=st.integers(0, 8), seed=st.integers(0, 99), asked=st.integers(0, 11))
def test_the_item_itself_is_never_an_example(count, seed, asked):
    items = pool(12)
    benchmark = record(source="test")
    chosen = choose_examples(benchmark, items, items[asked], count=count, seed=seed)
    assert len({item.index for item in chosen}) == count
    assert asked not in [item.index for item in chosen]
    assert chosen == choose_examples(benchmark, items, items[asked], count=count, seed=seed)


def test_all_items_are_asked_after_the_same_examples():
    items, benchmark = pool(12), record()
    draws = {choose_examples(benchmark, items, item, count=4, seed=1) for item in items}
    assert len(draws) == 1
    assert choose_examples(benchmark, items, items[0], count=4, seed=2) not in draws


def test_labels_take_turns():
    chosen = choose_examples(record(), pool(12), pool(1)[0], count=6)
    assert sorted(item.gold for item in chosen[:3]) == [0, 1, 2]
    assert sorted(item.gold for item in chosen[3:]) == [0, 1, 2]


@pytest.mark.parametrize(("lang", "langs"), [("en", {"en"}), ("de", {"de"}), ("fr", None)])
def test_examples_are_of_the_items_group_where_it_has_enough(lang, langs):
    asked = attrs.evolve(pool(1)[0], lang=lang)
    chosen = choose_examples(record(group="lang"), pool(12), asked, count=3)
    assert len(chosen) == 3
    assert langs is None or {item.lang for item in chosen} == langs


def test_too_few_items_are_an_error():
    with pytest.raises(TaskError, match="task 'x': 3 examples are wanted, but there are only 2"):
        choose_examples(record(source="test"), pool(3), pool(1)[0], count=3)
