"""Exact match and token F1 between texts, as in SQuAD, with each language's own rules.

Sources: the evaluation script of SQuAD (Rajpurkar et al., 2016, arXiv 1606.05250) for English; that
of MLQA (Lewis et al., 2020, arXiv 1910.07475) for the articles of other languages and for the
segmentation of Chinese into characters. Japanese and Thai, which MLQA does not have and which are
written without spaces too, are cut into characters in the same way.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ARTICLES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "en": re.compile(r"\b(a|an|the)\b"),
        "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
        "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
        "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
        "ar": re.compile(r"(?:^|\s)ال"),
    }
)
# Written without spaces: CJK ideographs, kana, Thai.
_CHARACTER = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]")
_BY_CHARACTER = frozenset({"zh", "ja", "th"})
# ASCII characters that SQuAD drops although Unicode calls them symbols.
_ASCII_SYMBOLS = frozenset("$+<=>^`|~")


def answer_tokens(text: str, lang: str = "en") -> list[str]:
    """Lower-case tokens without punctuation and articles; characters where words have no spaces.

    >>> answer_tokens("The Cat's hat.")
    ['cats', 'hat']
    >>> answer_tokens("在 2008年", "zh")
    ['在', '2008', '年']

    An unknown language is treated as one without articles; the empty one as English.
    """
    lang = lang or "en"
    kept = "".join(character for character in text.lower() if not _is_punctuation(character))
    if lang in _ARTICLES:
        kept = _ARTICLES[lang].sub(" ", kept)
    if lang in _BY_CHARACTER:
        kept = _CHARACTER.sub(r" \g<0> ", kept)
    return kept.split()


def exact_match(prediction: str, references: Iterable[str], lang: str = "en") -> float:
    """1.0 where the prediction has the same tokens, in order, as one of the references."""
    tokens = answer_tokens(prediction, lang)
    return float(any(tokens == answer_tokens(reference, lang) for reference in references))


def token_f1(prediction: str, references: Iterable[str], lang: str = "en") -> float:
    """The best F1 between the prediction's bag of tokens and a reference's, 0 to 1.

    Where either has no tokens, it is 1 if both have none and 0 otherwise (SQuAD 2.0).
    """
    tokens = answer_tokens(prediction, lang)
    return max(_f1(tokens, answer_tokens(reference, lang)) for reference in references)


def _f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    shared = (Counter(predicted) & Counter(wanted)).total()
    return 2 * shared / (len(predicted) + len(wanted))


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_SYMBOLS or unicodedata.category(character).startswith("P")
