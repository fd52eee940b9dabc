from __future__ import annotations

import pytest

from gem_experts.training.corpora import SOURCES, Recognizer, normal
from gem_suite.licences import is_permissive

LONG = "net income rose because of higher volumes . " * 12


@pytest.mark.parametrize(
    ("domain", "text", "source"),
    [
        ("finance", LONG, "convfinqa"),
        ("finance", f"Revenue\n{LONG}", "tatqa"),
        ("finance", "Net sales rose to EUR 7 mn .", None),
        ("finance", "gold falls\nsilver rises\ngold ends higher", None),
        ("stem", "Problem: What is $1 + 1$?\nSolution: It is 2.", "math"),
        ("stem", "Ann has 2 pens.\nShe buys 1: 3.\nAnswer: 3", "gsm8k"),
        ("stem", "Ice is solid water, and floats.", None),
        ("commonsense", "Health: How to sleep. Go to bed early.", "hellaswag"),
        ("commonsense", "Kai fell. How would Kai feel? hurt", "social_iqa"),
        ("commonsense", "Wet mud seals a wall.", "piqa, winogrande"),
        ("commonsense", "The turnpike is a toll road in the state. " * 9, None),
        ("multilingual", "서울은 대한민국의 수도이다.", "tydiqa_goldp"),
        ("multilingual", "Dodoma ni mji mkuu wa Tanzania katika Afrika.", "tydiqa_goldp"),
        ("multilingual", "Madrid es la capital de España.", None),
        ("elsewhere", "Anything.", None),
    ],
)
def test_paragraphs_are_recognised_by_their_form(domain, text, source):
    assert Recognizer(domain, {}).source(text) == source


def test_paragraphs_are_recognised_by_their_wording():
    text = "In this case the plaintiff asserts that the vessel was sold with its anchor."
    other = "An unrelated sentence of about the same length as the first, for comparison."
    recognizer = Recognizer("law", {"casehold": [f"So:  {text} And more."], "ledgar": [other]})
    assert recognizer.source(text.replace(" ", "\n", 1)) == "casehold"
    assert recognizer.source(other) == "ledgar"
    assert recognizer.source(text[:30]) is None
    # What two benchmarks have could be of either.
    assert Recognizer("law", {"a": [text], "b": [text]}).source(text) is None


def test_every_recognised_source_is_permissive():
    for sources in SOURCES.values():
        for source in sources:
            assert source.owns is None or is_permissive(source.licence)


def test_normal():
    assert normal(" a\n\t b ") == "a b"
