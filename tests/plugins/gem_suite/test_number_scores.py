"""Numbers in texts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.number_scores import ascii_digits, last_number, numbers_agree, parse_number


@given(number=st.integers(-(10**12), 10**12), text=st.text(alphabet="ab .,!?$\n"))
def test_the_last_number_is_found_with_commas_or_without(number, text):
    assert last_number(f"7 {text} {number:,}{text}") == number
    assert last_number(f"7 {text} ${number}.{text}") == number


@given(text=st.text(alphabet="0123456789-. ab", max_size=15))
def test_without_commas_it_is_the_number_that_lm_eval_finds(text):
    # lm-eval's flexible-extract takes stray points and minus signs for numbers: leave those out.
    found = [entry for pair in re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text) for entry in pair]
    found = [entry for entry in found if entry]
    if not found or not re.fullmatch(r"-?\d+(\.\d+)?", found[-1]):
        return
    assert last_number(text) == float(found[-1])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 4. #### 12", 12.0),
        ("#### none 3", 3.0),
        ("####\n5", 5.0),
        ("উত্তর: ১২৩", 123.0),
        ("คำตอบ ๑๒.๕", 12.5),
        ("1.5e3", 1500.0),
        ("\N{MINUS SIGN}3", -3.0),
        ("no", None),
        ("9" * 1000, None),
        ("1e999", None),
    ],
)
def test_numbers_of_all_kinds(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,234.5", 1234.5),
        ("12%", 12.0),
        (" -3 ", -3.0),
        ("3 4", None),
        ("True", None),
        ("", None),
    ],
)
def test_a_text_that_is_a_number(text, number):
    assert parse_number(text) == number


def test_digits_of_any_script():
    assert ascii_digits("٣ ३ 3 ³ x") == "3 3 3 ³ x"


@given(wanted=st.floats(-1e9, 1e9), share=st.floats(-0.2, 0.2))
def test_tolerance_is_a_share_of_the_reference(wanted, share):
    if abs(abs(share) - 0.04) < 1e-3:
        return
    agree = numbers_agree(wanted * (1 + share), wanted, 0.04)
    assert agree == (abs(share) < 0.04 or abs(wanted * share) <= 1e-6)


def test_percent_is_accepted_only_where_it_is_said():
    assert numbers_agree(148.5, 1.4847, 0.01, percent=True)
    assert not numbers_agree(148.5, 1.4847, 0.01)
