"""A model's answer to one item, scored: pure functions from item and outcome to numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gem_suite.entities import best_labelling, candidate_spans, count_matches, entity_spans
from gem_suite.errors import TaskError
from gem_suite.math_scores import final_answer, same_answer
from gem_suite.number_scores import last_number, numbers_agree, parse_number
from gem_suite.prompts import continuation_texts, entity_types
from gem_suite.right_answers import right_places
from gem_suite.text_scores import exact_match, token_f1

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gem_suite.records import Benchmark
    from gem_suite.requests import Outcome, Request
    from gem_suite.schema import Document

    Floats = npt.NDArray[np.float64]


def score(
    benchmark: Benchmark, document: Document, request: Request, outcome: Outcome
) -> dict[str, Any]:
    """Score one item.

    Returns:
        `doc_id`, `target`, `prediction`, each per-item metric of the benchmark under its name,
        `bits` and `bytes` of the reference where there is one, `words` of a text, and `counts`
        (true positives, false positives, false negatives) of entities.

    Raises:
        TaskError: the outcome does not fit the request, or is not a number.
    """
    check_outcome(benchmark, document, request, outcome)
    sample: dict[str, Any] = {"doc_id": document.index}
    if request.kind == "text":
        return sample | _score_text(document, outcome)
    if request.kind == "generate":
        return sample | _score_generation(benchmark, document, request, outcome)
    if benchmark.task_type == "open_ended":
        return sample | _bits(request.pairs, outcome.likelihoods)
    if benchmark.task_type == "token_classification":
        return sample | _score_entities(benchmark, document, request, outcome)
    return sample | _score_choice(benchmark, document, request, outcome)


def check_outcome(
    benchmark: Benchmark, document: Document, request: Request, outcome: Outcome
) -> None:
    """Raise TaskError where an outcome does not fit its request, or is not a number."""
    expected = 1 if request.kind == "text" else len(request.pairs)
    if len(outcome.likelihoods) != expected:
        raise TaskError(
            f"task '{benchmark.name}', item {document.index}: the engine returned "
            f"{len(outcome.likelihoods)} log-likelihoods for {expected} texts"
        )
    if any(math.isnan(value) or value == math.inf for value in outcome.likelihoods):
        raise TaskError(
            f"task '{benchmark.name}', item {document.index}: the model's log-likelihoods are "
            "not numbers; its weights are damaged or its precision is too low"
        )


def calibrated(likelihoods: Floats, content_free: Floats) -> Floats:
    """Contextual calibration (Zhao et al., 2021, arXiv 2102.09690).

    The probabilities of the labels, normalised to one, are divided by those under content-free
    prompts, which are averaged over the prompts first.

    Args:
        likelihoods: float64 `[..., labels]`, nats.
        content_free: float64 `[prompts, labels]`, nats.

    Returns:
        float64 `[..., labels]`: log of the quotient, up to a constant; its argmax is the label.
    """
    baseline = np.logaddexp.reduce(_log_softmax(content_free), axis=0)
    adjusted: Floats = _log_softmax(likelihoods) - (baseline - np.log(len(content_free)))
    return adjusted


def _log_softmax(values: Floats) -> Floats:
    # A likelihood of zero stays minus infinity; a row of nothing else would be no distribution.
    floor = np.maximum(values, -1e30)
    return np.asarray(floor - np.logaddexp.reduce(floor, axis=-1, keepdims=True), dtype=np.float64)


def score_bits(
    benchmark: Benchmark, document: Document, request: Request, outcome: Outcome
) -> dict[str, Any]:
    """Score one item of which only the right answer was asked (`gem_suite.right_answers`).

    Returns:
        `doc_id`, and as `score` gives them `bits`, `bytes` and, of a text, `words`.

    Raises:
        TaskError: the outcome does not fit the request, or is not a number.
    """
    check_outcome(benchmark, document, request, outcome)
    sample: dict[str, Any] = {"doc_id": document.index}
    if request.kind == "text":
        return sample | _score_text(document, outcome)
    return sample | (_bits(request.pairs, outcome.likelihoods) if request.pairs else {})


def _right_bits(
    benchmark: Benchmark, document: Document, request: Request, outcome: Outcome
) -> dict[str, Any]:
    """Bits and bytes of the right answer; nothing where there is none among what was asked."""
    places = right_places(benchmark, document, request)
    if not places:
        return {}
    return _bits(
        [request.pairs[place] for place in places],
        [outcome.likelihoods[place] for place in places],
    )


def _bits(pairs: Sequence[tuple[str, str]], likelihoods: Sequence[float]) -> dict[str, Any]:
    return {
        "bits": -sum(likelihoods) / math.log(2) + 0.0,
        "bytes": sum(len(continuation.encode()) for _, continuation in pairs),
    }


def _score_text(document: Document, outcome: Outcome) -> dict[str, Any]:
    # Bytes and words are those of the text before it is prepared, as in lm-eval.
    return {
        "bits": -outcome.likelihoods[0] / math.log(2) + 0.0,
        "bytes": len(document.text.encode()),
        "words": len(document.text.split()),
    }


def _score_choice(
    benchmark: Benchmark, document: Document, request: Request, outcome: Outcome
) -> dict[str, Any]:
    count, gold = len(document.options), document.gold
    blocks = np.array(outcome.likelihoods, dtype=np.float64).reshape(-1, count)
    likelihoods = blocks[0]
    texts = continuation_texts(benchmark.prompt, document)
    values = {
        "acc": likelihoods,
        "acc_norm": likelihoods / [len(text) for text in texts],
        "acc_bytes": likelihoods / [len(text.encode()) for text in texts],
    }
    if len(blocks) > 1:
        values["acc_calibrated"] = calibrated(likelihoods, blocks[1:])
    by_metric = {name: int(np.argmax(row)) for name, row in values.items()}
    ranked = np.sort(likelihoods)[::-1]
    per_item: dict[str, float] = {
        name: float(choice == gold)
        for name, choice in by_metric.items()
        if name in benchmark.metrics
    }
    if "mrr" in benchmark.metrics:
        per_item["mrr"] = 1.0 / (1 + ranked.tolist().index(likelihoods[gold]))
    main = benchmark.metric if benchmark.metric in by_metric else "acc"
    return {
        "target": gold,
        "prediction": by_metric[main],
        **({"group": document.subdomain} if "balanced_acc" in benchmark.metrics else {}),
        **per_item,
        **_right_bits(benchmark, document, request, outcome),
    }


def _score_generation(
    benchmark: Benchmark, document: Document, request: Request, outcome: Outcome
) -> dict[str, Any]:
    references = document.references
    answer, right, overlap = _judge(benchmark, document, outcome.text)
    per_item = {"exact_match": right, "f1": overlap}
    return {
        "target": references[0],
        "prediction": answer,
        **{name: value for name, value in per_item.items() if name in benchmark.metrics},
        **_bits(request.pairs, outcome.likelihoods),
    }


def _judge(benchmark: Benchmark, document: Document, text: str) -> tuple[str, float, float]:
    """The answer found in a generated text, its exact match, and its token F1."""
    references, lang = document.references, document.lang
    if benchmark.answer_type == "number":
        number = last_number(text)
        answer = text.strip() if number is None else f"{number:.10g}"
        right = float(any(_number_right(benchmark, number, text, wanted) for wanted in references))
        return answer, right, right
    if benchmark.answer_type == "math":
        answer = final_answer(text)
        right = float(any(same_answer(answer, reference) for reference in references))
        return answer, right, right
    answer = text.strip().partition("\n")[0].strip()
    if benchmark.unanswerable and _says(answer, benchmark.unanswerable):
        answer = ""
    right = exact_match(answer, references, lang)
    overlap = token_f1(answer, references, lang)
    if benchmark.answer_type == "mixed" and not right:
        number = parse_number(answer)
        wanted = [parse_number(reference) for reference in references]
        if number is not None and any(
            value is not None and numbers_agree(number, value, benchmark.tolerance)
            for value in wanted
        ):
            right = overlap = 1.0
    return answer, right, overlap


def _number_right(benchmark: Benchmark, number: float | None, text: str, reference: str) -> bool:
    wanted = parse_number(reference)
    if wanted is None:
        # A truth value or a list: the words decide.
        return exact_match(final_answer(text), [reference]) == 1.0
    return number is not None and numbers_agree(
        number, wanted, benchmark.tolerance, percent=benchmark.percent
    )


def _says(answer: str, phrase: str) -> bool:
    return answer.lower().strip(" .\"'").startswith(phrase.lower())


def _score_entities(
    benchmark: Benchmark, document: Document, request: Request, outcome: Outcome
) -> dict[str, Any]:
    types = entity_types(benchmark, document)
    spans = candidate_spans(document.tokens, benchmark.entities)
    others = len(benchmark.entities.others)
    rows = np.array(outcome.likelihoods, dtype=np.float64).reshape(-1, others + len(types))
    values, content_free = rows[: len(spans)], rows[len(spans) :]
    adjusted = calibrated(values, content_free) if len(content_free) else values
    margins = (adjusted[:, others:] - adjusted[:, :others].max(axis=1, keepdims=True)).tolist()
    predicted = best_labelling(spans, margins, types)
    answer = document.answer if isinstance(document.answer, tuple) else ()
    wanted = entity_spans([document.label_names[index] for index in answer])
    counts = count_matches(predicted, wanted)
    return {
        "target": [list(span) for span in wanted],
        "prediction": [list(span) for span in predicted],
        "counts": list(counts),
        **_right_bits(benchmark, document, request, outcome),
    }
