"""Where the right answer stands among what is asked, and a run that asks nothing else.

Bits per byte of the right answer need its log-likelihood alone: no other choice, no content-free
prompt and no generated text. A run that asks only that takes a fraction of the time, and gives the
same bits per byte, for each pair of context and continuation is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from gem_suite.entities import candidate_spans, entity_spans
from gem_suite.prompts import entity_types
from gem_suite.requests import Request
from gem_suite.schema import CORPUS

if TYPE_CHECKING:
    from gem_suite.records import Benchmark
    from gem_suite.schema import Document

_TEXT_TYPES = ("lm_perplexity", CORPUS)


def right_places(benchmark: Benchmark, document: Document, request: Request) -> tuple[int, ...]:
    """The places in `request.pairs` of the pairs whose continuations are the right answer.

    Of entities, one for every candidate that is one; there may be none.
    """
    if benchmark.task_type == "token_classification":
        return _entity_places(benchmark, document)
    if request.kind == "likelihood" and benchmark.task_type != "open_ended":
        return (document.gold,)
    return tuple(range(len(request.pairs)))


def only_right(benchmark: Benchmark, document: Document, request: Request) -> Request:
    """A request for the log-likelihood of the right answer alone; a whole text stays as it is."""
    if request.kind == "text":
        return request
    return Request(
        kind="likelihood",
        pairs=tuple(request.pairs[place] for place in right_places(benchmark, document, request)),
        system=request.system,
        delimiter=request.delimiter,
    )


def bits_benchmark(benchmark: Benchmark) -> Benchmark:
    """The benchmark of which nothing but bits per byte is wanted; of whole texts it is the same."""
    if benchmark.task_type in _TEXT_TYPES:
        return benchmark
    return attrs.evolve(
        benchmark,
        metric="bits_per_byte",
        metrics=("bits_per_byte",),
        prompt=attrs.evolve(benchmark.prompt, fillers=()),
    )


def _entity_places(benchmark: Benchmark, document: Document) -> tuple[int, ...]:
    types = entity_types(benchmark, document)
    spans = candidate_spans(document.tokens, benchmark.entities)
    others = len(benchmark.entities.others)
    answer = document.answer if isinstance(document.answer, tuple) else ()
    return tuple(
        spans.index((start, end)) * (others + len(types)) + others + list(types).index(kind)
        for start, end, kind in entity_spans([document.label_names[index] for index in answer])
        if (start, end) in spans and kind in types
    )
