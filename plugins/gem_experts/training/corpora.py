"""Where the paragraphs of a domain's `corpus.txt` come from.

A corpus is a mixture, and its file does not say which paragraph is whose. Where every source is
permissive that does not matter. Elsewhere a paragraph is taken only if its form gives its source away:
what these rules do not recognise is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import attrs

MATCH_CHARACTERS = 60
"""A paragraph is a benchmark's if so many of its first characters stand in one of its items."""

_SPACE = re.compile(r"\s+")
_HANGUL = re.compile("[\uac00-\ud7a3]")


@attrs.frozen(kw_only=True)
class CorpusSource:
    """One source of a corpus.

    Attributes:
        name: of the source; that of the benchmark, where it is one.
        licence: as stated for the source.
        owns: recognises a paragraph; None where no form tells.
    """

    name: str
    licence: str
    owns: Callable[[str], bool] | None = None


def _answered(text: str) -> bool:
    """GSM8K: a solution whose last line is the answer; MATH begins otherwise."""
    return not _problem(text) and re.search(r"\nAnswer: [^\n]*\Z", text) is not None


def _problem(text: str) -> bool:
    """MATH."""
    return text.startswith("Problem: ")


def _page(text: str) -> bool:
    """ConvFinQA: pages of reports, one line each; phrases and headlines have at most 310 characters."""
    return "\n" not in text and len(text) > 350


def _paragraphs(text: str) -> bool:
    """TAT-QA: several paragraphs; headlines, of at most 110 characters, stand in lists."""
    return "\n" in text and max(map(len, text.split("\n"))) > 150


def _instructions(text: str) -> bool:
    """HellaSwag's WikiHow half: a category, then a title."""
    return re.match(r"[A-Z][A-Za-z ]{2,50}: How to ", text) is not None


def _social(text: str) -> bool:
    """Social IQa: what happened, a question about a person, the answer."""
    return re.search(r"[.!] (What|How|Why)\b[^?]*\? [^?]*\Z", text) is not None and len(text) < 400


def _short(text: str) -> bool:
    """PIQA or WinoGrande: a sentence or two; passages of BoolQ are longer, titles have colons."""
    return len(text) <= 160 and ": " not in text and "\n" not in text


def _korean(text: str) -> bool:
    return len(_HANGUL.findall(text)) > 0.2 * len(text)


def _swahili(text: str) -> bool:
    return all(re.search(words, text) for words in (r"\b(kwa|katika)\b", r"\b(ya|wa|na)\b"))


SOURCES: Mapping[str, tuple[CorpusSource, ...]] = MappingProxyType(
    {
        "healthcare": (CorpusSource(name="pubmedqa", licence="MIT"),),
        "law": (
            CorpusSource(name="casehold", licence="CC BY 4.0 (as LexGLUE states)"),
            CorpusSource(name="contract_nli", licence="CC BY 4.0"),
            CorpusSource(name="ledgar", licence="CC BY 4.0 (as LexGLUE states)"),
        ),
        "finance": (
            CorpusSource(name="convfinqa", licence="MIT", owns=_page),
            CorpusSource(name="tatqa", licence="CC BY 4.0 (data)", owns=_paragraphs),
            CorpusSource(name="financial_phrasebank", licence="CC BY-NC-SA 3.0"),
            CorpusSource(name="headlines", licence="CC BY-SA"),
        ),
        "stem": (
            CorpusSource(name="math", licence="MIT", owns=_problem),
            CorpusSource(name="gsm8k", licence="MIT", owns=_answered),
            CorpusSource(name="sciq", licence="CC BY-NC 3.0"),
        ),
        "commonsense": (
            CorpusSource(name="hellaswag", licence="MIT", owns=_instructions),
            CorpusSource(name="social_iqa", licence="CC BY 4.0", owns=_social),
            CorpusSource(
                name="piqa, winogrande", licence="AFL 3.0 (PIQA), CC BY (WinoGrande)", owns=_short
            ),
            CorpusSource(name="boolq", licence="CC BY-SA 3.0"),
        ),
        "conversational": (
            CorpusSource(name="coqa", licence="mixed by source"),
            CorpusSource(name="dailydialog_act", licence="CC BY-NC-SA 4.0"),
            CorpusSource(name="dream", licence="non-commercial research only"),
            CorpusSource(name="mutual", licence="none stated"),
        ),
        "multilingual": (
            CorpusSource(name="tydiqa_goldp", licence="Apache-2.0", owns=_korean),
            CorpusSource(name="tydiqa_goldp", licence="Apache-2.0", owns=_swahili),
            CorpusSource(name="mlqa", licence="CC BY-SA 3.0"),
            CorpusSource(name="xquad", licence="CC BY-SA 4.0"),
        ),
        "domain_adaptive": (
            CorpusSource(name="biomed", licence="none stated"),
            CorpusSource(name="cs", licence="none stated"),
            CorpusSource(name="news", licence="non-commercial use"),
            CorpusSource(name="reviews", licence="none stated"),
            CorpusSource(name="wiki", licence="CC BY-SA 3.0"),
        ),
    }
)
"""The sources of each domain's corpus, in the order of asking."""


def names_of(source: CorpusSource) -> list[str]:
    """The benchmarks that a source stands for."""
    return [name.strip() for name in source.name.split(",")]


def normal(text: str) -> str:
    """A text with single spaces, as texts are compared."""
    return _SPACE.sub(" ", text).strip()


class Recognizer:
    """Tells whose a paragraph is.

    Args:
        domain: of the corpus.
        items: for each benchmark the texts of its training items.
    """

    def __init__(self, domain: str, items: Mapping[str, Iterable[str]]) -> None:
        self._sources = SOURCES.get(domain, ())
        self._items = {name: "\n".join(map(normal, texts)) for name, texts in items.items()}

    def source(self, paragraph: str) -> str | None:
        """Name of the source, or None where neither form nor wording gives it away."""
        for source in self._sources:
            if source.owns is not None and source.owns(paragraph):
                return source.name
        key = normal(paragraph)[:MATCH_CHARACTERS]
        if len(key) < MATCH_CHARACTERS:
            return None
        owners = [name for name, texts in self._items.items() if key in texts]
        return owners[0] if len(owners) == 1 else None
