"""One item of a benchmark, checked: the schema that every data folder and the Hub are read into."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CORPUS = "corpus"
"""The task type of a domain's held-out text, whose items are pieces of one text file."""

TASK_TYPES = (
    "multiple_choice",
    "classification",
    "token_classification",
    "generation_qa",
    "extractive_qa",
    "lm_perplexity",
    "open_ended",
    CORPUS,
)

_TEXTS = ("id", "lang", "subdomain", "context", "question", "text", "rationale")
_LISTS = ("choices", "label_names", "answers", "tokens", "turns")
_SHOWN = 80


@attrs.frozen(kw_only=True)
class Document:
    """One item of a benchmark. Texts that an item does not have are empty, and so are lists.

    Attributes:
        index: the item's place in its file, from 0, blank lines not counted; `doc_id` in results.
        id: the item's own name.
        task_type: one of `TASK_TYPES`.
        lang: language code; empty where the benchmark has one language.
        subdomain: the part of the benchmark that the item belongs to.
        context, question, text: what is asked about.
        choices: the possible answers of a multiple-choice item.
        label_names: the labels of a (token) classification item.
        answer: index of the right choice or label; one index a token; or the reference text, where
            empty means that there is none (open-ended) or that the question has no answer.
        answers: every accepted text, or the references of all turns.
        tokens: the words of a token classification item.
        turns: what the user says in an open-ended chat.
        rationale: the worked solution.
    """

    index: int
    id: str
    task_type: str
    answer: int | str | tuple[int, ...]
    lang: str = ""
    subdomain: str = ""
    context: str = ""
    question: str = ""
    text: str = ""
    choices: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    rationale: str = ""

    @property
    def gold(self) -> int:
        """The index of the right choice or label of a multiple-choice or classification item."""
        if not isinstance(self.answer, int):
            raise TypeError(f"the answer of a {self.task_type} item is no index")
        return self.answer

    @property
    def options(self) -> tuple[str, ...]:
        """What the answer of a multiple-choice or classification item indexes."""
        return self.choices if self.task_type == "multiple_choice" else self.label_names

    @property
    def references(self) -> tuple[str, ...]:
        """Every accepted answer text, at least one; an unanswerable question has the empty one."""
        first = (self.answer,) if isinstance(self.answer, str) else ()
        return self.answers or first


def parse_document(values: Mapping[str, Any], where: str, index: int) -> Document:
    """Check one JSON object against the schema.

    Args:
        values: the object; keys that the schema does not know are ignored.
        where: file and line, for messages.
        index: the item's place in its file.

    Raises:
        DataError: a field is missing, of the wrong type, or does not agree with the others.
    """
    try:
        fields = _typed_fields(values)
        document = Document(index=index, answer=_answer(values), **fields)
        _CHECKS[document.task_type](document)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return document


def _typed_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    task_type = values.get("task_type")
    if task_type not in TASK_TYPES:
        known = ", ".join(TASK_TYPES)
        raise ValueError(f"'task_type' is {_shown(task_type)}, which is none of {known}")
    fields: dict[str, Any] = {"task_type": task_type}
    for name in _TEXTS:
        value = values.get(name)
        if value is None:
            value = ""
        if not isinstance(value, str):
            raise ValueError(f"'{name}' is {_shown(value)}: it must be text")
        fields[name] = value
    for name in _LISTS:
        value = values.get(name)
        if value is None:
            value = []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"'{name}' is {_shown(value)}: it must be a list of texts")
        fields[name] = tuple(value)
    return fields


def _answer(values: Mapping[str, Any]) -> int | str | tuple[int, ...]:
    if "answer" not in values:
        raise ValueError("it has no 'answer'")
    answer = values["answer"]
    if isinstance(answer, list):
        if not all(_is_index(entry) for entry in answer):
            raise ValueError(f"'answer' is {_shown(answer)}: it must hold whole numbers only")
        return tuple(answer)
    if _is_index(answer) or isinstance(answer, str):
        return answer  # type: ignore[no-any-return]
    raise ValueError(f"'answer' is {_shown(answer)}: it must be an index, a list of them, or text")


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_indexed(document: Document, name: str) -> None:
    options = document.options
    if len(options) < 2:
        raise ValueError(f"'{name}' holds {len(options)} entries: at least 2 are needed")
    for place, option in enumerate(options):
        if not option.strip():
            raise ValueError(f"entry {place} of '{name}' is empty")
    if not isinstance(document.answer, int):
        raise ValueError(f"'answer' is {_shown(document.answer)}: it must be an index of '{name}'")
    _check_range(document.answer, options, name)


def _check_range(index: int, options: tuple[str, ...], name: str) -> None:
    if not 0 <= index < len(options):
        raise ValueError(
            f"'answer' is {index}, out of range: '{name}' has {len(options)} entries, "
            f"0 to {len(options) - 1}"
        )


def _check_some(document: Document, *names: str) -> None:
    if not any(getattr(document, name) for name in names):
        listed = " or ".join(f"'{name}'" for name in names)
        raise ValueError(f"it has no {listed}, which a {document.task_type} item needs")


def _check_multiple_choice(document: Document) -> None:
    _check_some(document, "question", "context")
    _check_indexed(document, "choices")


def _check_classification(document: Document) -> None:
    _check_some(document, "text", "question", "context")
    _check_indexed(document, "label_names")
    _check_distinct(document.label_names)


def _check_distinct(labels: tuple[str, ...]) -> None:
    if len(set(labels)) < len(labels):
        raise ValueError("'label_names' holds the same name twice")


def _check_tokens(document: Document) -> None:
    _check_some(document, "tokens")
    if not isinstance(document.answer, tuple) or len(document.answer) != len(document.tokens):
        found = len(document.answer) if isinstance(document.answer, tuple) else "no list of"
        raise ValueError(f"'answer' has {found} labels for {len(document.tokens)} tokens")
    for label in document.label_names:
        if label != "O" and label[:2] not in ("B-", "I-"):
            raise ValueError(f"label {_shown(label)} is neither 'O' nor begins with 'B-' or 'I-'")
    _check_distinct(document.label_names)
    for index in document.answer:
        _check_range(index, document.label_names, "label_names")


def _check_generation(document: Document) -> None:
    _check_some(document, "question", "text")
    if not isinstance(document.answer, str):
        raise ValueError(f"'answer' is {_shown(document.answer)}: it must be text")
    if not document.answer.strip() and document.task_type == "generation_qa":
        raise ValueError("'answer' is empty")


def _check_text(document: Document) -> None:
    _check_some(document, "text")


def _check_open_ended(document: Document) -> None:
    _check_some(document, "question", "turns")
    if not isinstance(document.answer, str):
        raise ValueError(f"'answer' is {_shown(document.answer)}: it must be text")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_CHECKS: Mapping[str, Callable[[Document], None]] = MappingProxyType(
    {
        "multiple_choice": _check_multiple_choice,
        "classification": _check_classification,
        "token_classification": _check_tokens,
        "generation_qa": _check_generation,
        "extractive_qa": _check_generation,
        "lm_perplexity": _check_text,
        "open_ended": _check_open_ended,
        CORPUS: _check_text,
    }
)
