"""Text scores against the official scripts of SQuAD and MLQA, written down again."""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.text_scores import answer_tokens, exact_match, token_f1

PUNCTUATION = {
    chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P")
} | set(string.punctuation)
ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"(?:^|\s)ال",
}
WORDS = st.sampled_from(
    ["The", "cat", "a", "an", "hat.", "ein", "Der", "la", "ال", "البيت", "cái", "$5", "你", "好",
     "2008", "«x»", "it's", "¿", "-", " ", "\n"]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=8).map(" ".join) | st.text(max_size=12)


def mlqa_tokens(text: str, lang: str) -> list[str]:
    """`normalize_answer` and the segmentation of MLQA's evaluation script."""
    text = "".join(character for character in text.lower() if character not in PUNCTUATION)
    text = re.sub(ARTICLES[lang], " ", text) if lang in ARTICLES else text
    if lang != "zh":
        return text.split()
    tokens, run = [], ""
    for character in text:
        if re.search(r"[\u4e00-\u9fa5]", character):
            tokens += [*run.split(), character]
            run = ""
        else:
            run += character
    return tokens + run.split()


def mlqa_f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((Counter(predicted) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("lang", ["en", "es", "de", "vi", "ar", "hi"])
@given(prediction=TEXTS, reference=TEXTS)
def test_scores_are_those_of_mlqa(lang, prediction, reference):
    predicted, wanted = mlqa_tokens(prediction, lang), mlqa_tokens(reference, lang)
    assert answer_tokens(prediction, lang) == predicted
    assert token_f1(prediction, [reference], lang) == pytest.approx(mlqa_f1(predicted, wanted))
    assert exact_match(prediction, [reference], lang) == (predicted == wanted)


@given(text=st.text(alphabet="你好 ab,。-2", max_size=20))
def test_chinese_is_segmented_as_in_mlqa(text):
    assert answer_tokens(text, "zh") == mlqa_tokens(text, "zh")


@given(prediction=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_best_reference_counts(prediction, references):
    assert token_f1(prediction, references) == max(
        token_f1(prediction, [reference]) for reference in references
    )
    assert exact_match(prediction, references) == max(
        exact_match(prediction, [reference]) for reference in references
    )


def test_japanese_and_thai_are_cut_into_characters():
    assert answer_tokens("東京タワー 333m", "ja") == ["東", "京", "タ", "ワ", "ー", "333m"]
    assert token_f1("กรุง", ["กรุงเทพ"], "th") == pytest.approx(2 * 4 / (4 + 7))


def test_no_answer_agrees_with_no_answer_alone():
    assert token_f1("", [""]) == exact_match("...", [""]) == 1.0
    assert token_f1("", ["x"]) == token_f1("x", [""]) == 0.0
