"""What some benchmarks do to an item before it is put into words: named, pure functions.

Each takes the item's template values and choices and the words of its language, and returns new
ones. The texts that they make are those of lm-evaluation-harness 0.4, named in each docstring.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BRACKETS = re.compile(r"\[.*?\]")
_HEAD = re.compile(r"\[\[ (?P<inside>.*?) \]\]")
_TAIL = re.compile(r"<< (?P<inside>.*?) >>")
_MUTUAL = (
    (" '", "'"), (" \n", "\n"), ("\n ", "\n"), (" n't", "n't"), ("`` ", '"'), ("''", '"'),
    (" :", ":"), (" ;", ";"), (" !", "!"), (" ?", "?"), (" ,", ","), (" .", "."),
)  # fmt: skip
_GENERAL = ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"'))
_WIKITEXT_NUMBERS = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
_WIKITEXT_PUNCTUATION = tuple((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
_WIKITEXT_PAIRS = (
    (re.compile(r"\(\s*([^\)]*?)\s*\)"), r"(\1)"),
    (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"),
    (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r'"\s*([^"]*?)\s*"'), r'"\1"'),
    (re.compile(r"'\s*([^']*?)\s*'"), r"'\1'"),
)
_WIKITEXT_OTHER = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°"), (" \n", "\n"),
    ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip
_FINAL_MARKS = ".。।!?"


@attrs.frozen
class Prepared:
    """Template values, and the choices, as they are filled in."""

    values: Mapping[str, str]
    choices: tuple[str, ...]


def hellaswag(item: Prepared, words: Mapping[str, str]) -> Prepared:
    """Drop the marks of WikiHow from context and endings, as lm-eval's `hellaswag`."""
    values = {**item.values, "context": clean_hellaswag(item.values["context"])}
    return Prepared(values, tuple(map(clean_hellaswag, item.choices)))


def clean_hellaswag(text: str) -> str:
    """lm-eval's `preprocess` of HellaSwag.

    >>> clean_hellaswag("Hanging [title] Find a nail. [step] Then")
    'Hanging. Find a nail. Then'
    """
    text = text.strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", text).replace("  ", " ")


def winogrande(item: Prepared, words: Mapping[str, str]) -> Prepared:
    """Add `before` and `after`: the sentence on either side of its blank, as lm-eval does."""
    before, _, after = item.values["question"].partition("_")
    return Prepared({**item.values, "before": before, "after": after.strip()}, item.choices)


def mutual(item: Prepared, words: Mapping[str, str]) -> Prepared:
    """Join the tokens of dialogue and replies to ordinary text, as lm-eval's `mutual`."""
    values = {**item.values, "context": _replace(item.values["context"], _MUTUAL)}
    return Prepared(values, tuple(_replace(choice, _MUTUAL) for choice in item.choices))


def paraphrase(item: Prepared, words: Mapping[str, str]) -> Prepared:
    """Join tokens, drop the first sentence's final mark, as lm-eval's `paws-x`."""
    first = _detokenised(item.values["context"])
    first = first[:-1] if first.endswith((".", ",", ";")) else first
    second = _lower_first(_detokenised(item.values["question"]))
    return Prepared({**item.values, "context": first, "question": second}, item.choices)


def cause_or_effect(item: Prepared, words: Mapping[str, str]) -> Prepared:
    """Turn XCOPA's question into a connective, as lm-eval's `xcopa`.

    Adds `premise` and `connective`. lm-eval drops the premise's last character, whatever it is;
    here it is dropped if it is a full stop, which some of the languages do not write.
    """
    premise = item.values["context"].strip()
    premise = premise[:-1] if premise.endswith(tuple(_FINAL_MARKS)) else premise
    kind = "cause" if "cause" in item.values["question"] else "effect"
    values = {**item.values, "premise": premise, "connective": words.get(kind, kind)}
    return Prepared(values, tuple(map(_lower_first, item.choices)))


def marked_entities(item: Prepared, words: Mapping[str, str]) -> Prepared:
    """Add `head` and `tail`, what `[[ ]]` and `<< >>` mark, and `plain`, the text without marks."""
    text = item.values["text"]
    head, tail = _HEAD.search(text), _TAIL.search(text)
    plain = _TAIL.sub(r"\g<inside>", _HEAD.sub(r"\g<inside>", text))
    values = {
        **item.values,
        "head": head["inside"] if head else "",
        "tail": tail["inside"] if tail else "",
        "plain": plain,
    }
    return Prepared(values, item.choices)


def wikitext(item: Prepared, words: Mapping[str, str]) -> Prepared:
    """Join WikiText's tokens to ordinary text, as lm-eval's `wikitext`."""
    return Prepared(
        {**item.values, "text": detokenised_wikitext(item.values["text"])}, item.choices
    )


def detokenised_wikitext(text: str) -> str:
    """lm-eval's `wikitext_detokenizer`.

    >>> detokenised_wikitext("a 1 @,@ 000 @-@ mile ( long ) walk , he said .")
    'a 1,000-mile (long) walk, he said .'
    """
    text = text.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    text = _replace(text, _WIKITEXT_NUMBERS + _WIKITEXT_PUNCTUATION)
    for pattern, replacement in _WIKITEXT_PAIRS:
        text = pattern.sub(replacement, text)
    return _replace(text, _WIKITEXT_OTHER)


def _replace(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _detokenised(text: str) -> str:
    return re.sub(r" (['.,])", r"\1", _replace(text, _GENERAL)).strip()


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


PREPARATIONS: Mapping[str, Callable[[Prepared, Mapping[str, str]], Prepared]] = MappingProxyType(
    {
        "hellaswag": hellaswag,
        "winogrande": winogrande,
        "mutual": mutual,
        "paraphrase": paraphrase,
        "cause_or_effect": cause_or_effect,
        "marked_entities": marked_entities,
        "wikitext": wikitext,
    }
)
"""The preparations that a benchmark's prompt form may name."""
