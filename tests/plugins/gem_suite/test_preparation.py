"""The preparations against what lm-evaluation-harness does, written down again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.preparation import PREPARATIONS, Prepared, clean_hellaswag, detokenised_wikitext

TEXTS = st.text(alphabet="ab AN.,:;!?'\"()[]{}`=@°\n-0s/")


def prepared(name, choices=(), words=None, **values):
    empty = {"context": "", "question": "", "text": ""}
    return PREPARATIONS[name](Prepared({**empty, **values}, tuple(choices)), words or {})


@given(text=st.lists(st.sampled_from(["[title]", " [title]", "[step]", " ", "  ", "word", "["])))
def test_hellaswag_is_cleaned_as_in_lm_eval(text):
    text = "".join(text)
    expected = text.strip()
    expected = expected.replace(" [title]", ". ")
    expected = re.sub("\\[.*?\\]", "", expected)
    expected = expected.replace("  ", " ")
    assert clean_hellaswag(text) == expected


def test_winogrande_is_cut_at_the_blank():
    item = prepared("winogrande", ["box", "file"], question="He put the _ on the desk.")
    assert (item.values["before"], item.values["after"]) == ("He put the ", "on the desk.")


def test_a_dialogue_is_joined():
    item = prepared("mutual", ["f : i do n't ."], context="m : it 's , well , ok ?\nf : no !")
    assert item.values["context"] == "m: it's, well, ok?\nf: no!"
    assert item.choices == ("f: i don't.",)


@pytest.mark.parametrize(
    ("context", "question", "first", "second"),
    [
        ("He came .", "He left .", "He came", "he left."),
        ("One ( two ) ;", 'A " b " c', "One (two) ", 'a"b"c'),
        ("Fin", "", "Fin", ""),
    ],
)
def test_a_paraphrase_continues_the_first_sentence(context, question, first, second):
    item = prepared("paraphrase", context=context, question=question)
    assert (item.values["context"], item.values["question"]) == (first, second)


@pytest.mark.parametrize(
    ("context", "premise"), [("It rained. ", "It rained"), ("ฝนตก", "ฝนตก"), ("下雨了。", "下雨了")]
)
def test_only_a_full_stop_is_dropped_from_a_premise(context, premise):
    words = {"cause": "because", "effect": "therefore"}
    item = prepared("cause_or_effect", ["The X", ""], words, context=context, question="the cause?")
    assert item.values["premise"] == premise
    assert item.values["connective"] == "because"
    assert item.choices == ("the X", "")
    other = prepared("cause_or_effect", [], words, question="What happened as a result?")
    assert other.values["connective"] == "therefore"


def test_marked_entities_are_found():
    item = prepared("marked_entities", text="<< A >> stops [[ B (c) ]] .")
    assert [item.values[name] for name in ("head", "tail", "plain")] == [
        "B (c)",
        "A",
        "A stops B (c) .",
    ]
    assert prepared("marked_entities", text="none").values["head"] == ""


@given(text=TEXTS)
def test_wikitext_is_joined_as_in_lm_eval(text):
    string = text.replace("s '", "s'")
    string = re.sub(r"/' [0-9]/", r"/'[0-9]/", string)
    for separator in "-,.":
        string = string.replace(f" @{separator}@ ", separator)
    for mark in (":", ";", ".", "!", "?", ","):
        string = string.replace(f" {mark} ", f"{mark} ")
    string = re.sub(r"\(\s*([^\)]*?)\s*\)", r"(\1)", string)
    string = re.sub(r"\[\s*([^\]]*?)\s*\]", r"[\1]", string)
    string = re.sub(r"{\s*([^}]*?)\s*}", r"{\1}", string)
    string = re.sub(r"\"\s*([^\"]*?)\s*\"", r'"\1"', string)
    string = re.sub(r"'\s*([^']*?)\s*'", r"'\1'", string)
    string = string.replace("= = = =", "====").replace("= = =", "===").replace("= =", "==")
    string = string.replace(" " + chr(176) + " ", chr(176))
    string = string.replace(" \n", "\n").replace("\n ", "\n")
    string = string.replace(" N ", " 1 ").replace(" 's", "'s")
    assert detokenised_wikitext(text) == string
