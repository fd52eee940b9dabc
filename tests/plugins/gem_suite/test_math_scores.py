"""Answers in LaTeX."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.math_scores import final_answer, normalised, same_answer


def balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\tfrac12"),
        ("0.5", "1/2"),
        ("x = 5", "5"),
        (r"5 \text{ cm}", "5"),
        (r"\$1,000", "1000"),
        (r"45^\circ", "45"),
        (r"10\%", "10"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\text{Evelyn}", "Evelyn"),
        (".5", "0.5"),
        ("-3/4", r"-\frac{3}{4}"),
        (r"\frac9{10}", r"\frac{9}{10}"),
    ],
)
def test_other_ways_to_write_the_same(one, other):
    assert same_answer(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(r"\frac{1}{2}", r"\frac{2}{1}"), ("1", "-1"), (r"\text{Evelyn}", r"\text{Briana}"),
     ("12", "1,2"), (r"\text{ cm}", r"\text{ m}"), ("x^2", "x"), ("1.5", "15")],
)  # fmt: skip
def test_different_answers_stay_different(one, other):
    assert not same_answer(one, other)


@given(st.text(alphabet="0123456789x+-^{}\\/frac =.$ ", max_size=20))
def test_any_text_has_a_form_that_equals_itself(text):
    assert same_answer(text, text)
    assert " " not in normalised(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"a \boxed{1} b \boxed{\frac{1}{2}} c", r"\frac{1}{2}"),
        (r"\boxed{open {never closed", r"\boxed{open {never closed"),
        ("So the answer is $3x$.\nNext", "3x"),
        ("we get $a$ and so $b$ it is", "a$ and so $b"),
        (" 42.\nmore", "42"),
        ("", ""),
    ],
)
def test_the_final_answer(text, answer):
    assert final_answer(text) == answer


@given(inside=st.text(alphabet="a1{}^", max_size=12).filter(balanced))
def test_what_a_box_holds_is_found_whole(inside):
    assert final_answer(f"text \\boxed{{{inside}}} end") == inside
