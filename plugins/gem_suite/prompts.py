"""Items into requests: the prompt forms at work."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from gem_suite.entities import candidate_spans, entity_spans, types_of
from gem_suite.preparation import PREPARATIONS, Prepared
from gem_suite.requests import Request
from gem_suite.schema import CORPUS
from gem_suite.templates import fill

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gem_suite.records import Benchmark, PromptForm
    from gem_suite.schema import Document

BETWEEN_EXAMPLES = "\n\n"
"""What follows each few-shot example, as lm-eval's `fewshot_delimiter`."""


def build_request(
    benchmark: Benchmark,
    document: Document,
    examples: Sequence[Document] = (),
) -> Request:
    """What to ask a model about one item.

    Args:
        benchmark: whose prompt form is used.
        document: the item.
        examples: answered items that stand before it, in this order.

    Returns:
        For choices and labels: first one pair for each, then as many for each filler. For entities:
        the same for each candidate span in order, the other things before the types, and after all
        candidates once for each filler.
    """
    form = benchmark.prompt
    if benchmark.task_type in ("lm_perplexity", CORPUS):
        prepared = prepare(form, document)
        return Request(kind="text", text=prepared.values["text"], delimiter="")
    system = fill(form.description, prepare(form, document).values)
    before = system + "".join(_example(benchmark, example) for example in examples)
    fillers = form.fillers
    if benchmark.task_type in ("generation_qa", "extractive_qa"):
        return _generation(benchmark, document, before, system)
    if benchmark.task_type == "open_ended":
        pairs = tuple(_turns(form, document, before))
    elif benchmark.task_type == "token_classification":
        pairs = tuple(_entity_pairs(benchmark, document, before, fillers))
    else:
        pairs = tuple(_choice_pairs(form, document, before, fillers))
    return Request(kind="likelihood", pairs=pairs, system=system, delimiter=form.delimiter)


def prepare(form: PromptForm, document: Document) -> Prepared:
    """Template values and the choices of an item, prepared as the form says.

    The choices of a classification item are its labels in words.
    """
    words = words_of(form, document.lang)
    choices = document.choices or tuple(
        fill(form.labels.get(name, name), words) for name in document.label_names
    )
    values = {
        "context": document.context,
        "question": document.question,
        "text": document.text,
        "subdomain": document.subdomain,
        "subject": document.subdomain.replace("_", " "),
        "lang": document.lang,
        "rationale": document.rationale,
        "answer": document.references[0] if document.references else "",
        "passage": f"{document.context}\n" if document.context else "",
        "body": "\n".join(filter(None, (document.context, document.text, document.question))),
        "lettered": "".join(
            f"{letter}. {choice}\n"
            for letter, choice in zip(string.ascii_uppercase, document.choices, strict=False)
        ),
        **words,
    }
    prepared = Prepared(values, choices)
    return PREPARATIONS[form.preparation](prepared, words) if form.preparation else prepared


def words_of(form: PromptForm, lang: str) -> Mapping[str, str]:
    """The words of a language, or of English where the form has none for it."""
    return {**form.words.get("en", {}), **form.words.get(lang, {})}


def continuation_texts(form: PromptForm, document: Document) -> tuple[str, ...]:
    """What is scored for each choice, without the delimiter."""
    prepared = prepare(form, document)
    return tuple(
        fill(form.continuation, {**prepared.values, "choice": choice})
        for choice in prepared.choices
    )


def reference_text(benchmark: Benchmark, document: Document) -> str:
    """A right generated answer in the form's words, without the delimiter."""
    if benchmark.unanswerable and not document.answer:
        return benchmark.unanswerable
    return fill(benchmark.prompt.reference, prepare(benchmark.prompt, document).values)


def entity_types(benchmark: Benchmark, document: Document) -> tuple[str, ...]:
    """The types that a token classification item is asked about."""
    chosen = benchmark.entities.by_subdomain.get(document.subdomain)
    return tuple(chosen) if chosen else types_of(document.label_names)


def _example(benchmark: Benchmark, document: Document) -> str:
    form = benchmark.prompt
    if benchmark.task_type in ("generation_qa", "extractive_qa"):
        context = fill(form.context, prepare(form, document).values)
        return context + form.delimiter + reference_text(benchmark, document) + BETWEEN_EXAMPLES
    if benchmark.task_type == "open_ended":
        return "".join(
            context + continuation + BETWEEN_EXAMPLES
            for context, continuation in list(_turns(form, document, ""))[:1]
        )
    if benchmark.task_type == "token_classification":
        context, continuation = _entity_example(benchmark, document)
    else:
        context, continuation = list(_choice_pairs(form, document, "", ()))[document.gold]
    return context + continuation + BETWEEN_EXAMPLES


def _choice_pairs(
    form: PromptForm, document: Document, before: str, fillers: Sequence[str]
) -> Iterator[tuple[str, str]]:
    prepared = prepare(form, document)
    for filler in (None, *fillers):
        for choice in prepared.choices:
            values = {**prepared.values, "choice": choice}
            seen = values if filler is None else _masked(form, values, filler)
            continuation = fill(form.continuation, values)
            yield before + fill(form.context, seen), form.delimiter + continuation


def _masked(form: PromptForm, values: Mapping[str, str], filler: str) -> dict[str, str]:
    return {name: filler if name in form.masked else value for name, value in values.items()}


def _generation(benchmark: Benchmark, document: Document, before: str, system: str) -> Request:
    form = benchmark.prompt
    prompt = before + fill(form.context, prepare(form, document).values)
    return Request(
        kind="generate",
        pairs=((prompt, form.delimiter + reference_text(benchmark, document)),),
        prompt=prompt,
        stop=form.stop,
        max_tokens=form.max_tokens,
        system=system,
        delimiter=form.delimiter,
    )


def _turns(form: PromptForm, document: Document, before: str) -> Iterator[tuple[str, str]]:
    """Each turn that has a reference, after the turns and references before it."""
    turns = document.turns or (document.question,)
    references = document.references
    for turn, reference in zip(turns, references, strict=False):
        if not reference:
            return
        context = before + fill(form.context, {**prepare(form, document).values, "question": turn})
        yield context, form.delimiter + reference
        before = context + form.delimiter + reference + BETWEEN_EXAMPLES


def _entity_pairs(
    benchmark: Benchmark, document: Document, before: str, fillers: Sequence[str]
) -> Iterator[tuple[str, str]]:
    form = benchmark.prompt
    values = dict(prepare(form, document).values)
    types = [form.labels.get(name, name) for name in entity_types(benchmark, document)]
    labels = [*benchmark.entities.others, *types]
    contexts = [
        fill(form.context, {**values, "span": " ".join(document.tokens[start:end])})
        for start, end in candidate_spans(document.tokens, benchmark.entities)
    ]
    masked = [
        fill(form.context, _masked(form, {**values, "span": ""}, filler)) for filler in fillers
    ]
    for context in (*contexts, *masked):
        for label in labels:
            yield before + context, form.delimiter + label


def _entity_example(benchmark: Benchmark, document: Document) -> tuple[str, str]:
    """The first entity of an answered sentence, or its first candidate as no entity."""
    form = benchmark.prompt
    answer = document.answer if isinstance(document.answer, tuple) else ()
    spans = entity_spans([document.label_names[index] for index in answer])
    candidates = candidate_spans(document.tokens, benchmark.entities)
    start, end, kind = spans[0] if spans else (*(candidates[0] if candidates else (0, 1)), "O")
    values = {
        **prepare(form, document).values,
        "span": " ".join(document.tokens[start:end]),
    }
    label = benchmark.entities.others[0] if kind == "O" else form.labels.get(kind, kind)
    return fill(form.context, values), form.delimiter + label


def has_reference(benchmark: Benchmark, document: Document) -> bool:
    """Whether an item can be scored at all: an open-ended one needs a reference answer."""
    return benchmark.task_type != "open_ended" or bool(
        document.references and document.references[0]
    )
