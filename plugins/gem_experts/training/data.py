"""What an expert learns from: a domain's training items and its corpus, as far as licences permit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from gem_experts.training.corpora import SOURCES, Recognizer, names_of
from gem_suite.entities import candidate_spans, entity_spans
from gem_suite.folders import (
    corpus_documents,
    find_folders,
    folder_benchmark,
    stated_licence,
)
from gem_suite.licences import is_permissive, judged
from gem_suite.lines import read_documents
from gem_suite.prompts import build_request, entity_types
from gemcore.errors import UsageError, unknown_name
from gemcore.experts.card import DataSource

if TYPE_CHECKING:
    from gem_suite.records import Benchmark
    from gem_suite.schema import Document

CORPUS_FILE = "corpus.txt"
"""A domain's text to learn from; `corpus.heldout.txt` is measured and never learned."""


@attrs.frozen(kw_only=True)
class Example:
    """A text to learn.

    Attributes:
        source: name of the benchmark, or of the corpus.
        prompt: what stands before the answer; empty for plain text.
        answer: the right answer with what joins it to the prompt; or a plain text.
    """

    source: str
    prompt: str
    answer: str

    @property
    def is_text(self) -> bool:
        """Whether it is plain text rather than a question."""
        return not self.prompt


@attrs.frozen(kw_only=True)
class TrainingData:
    """A domain's texts.

    Attributes:
        domain: its name.
        examples: items in the order of benchmarks and files, then paragraphs of the corpus.
        sources: where they come from, for the card.
        left_out: why each other benchmark, or part of the corpus, is not among them.
    """

    domain: str
    examples: tuple[Example, ...] = attrs.field(repr=False)
    sources: tuple[DataSource, ...]
    left_out: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Size of all texts in UTF-8."""
        return sum(source.bytes for source in self.sources)


def domains_of(root: Path) -> tuple[str, ...]:
    """The domains that have a folder with something to learn from, in order of their names."""
    found = {folder.domain for folder in find_folders(root).values()}
    return tuple(sorted(found | {path.parent.name for path in root.glob(f"*/{CORPUS_FILE}")}))


def read_training_data(
    root: Path,
    domain: str,
    benchmarks: Mapping[str, Benchmark],
    *,
    licences: str = "permissive",
    exclude: Collection[str] = (),
) -> TrainingData:
    """Read what a domain has to learn from.

    Args:
        root: the folder of the benchmark data.
        domain: a folder in it.
        benchmarks: records by name; a folder that none names is read as its SOURCE.json says.
        licences: `permissive` or `all`.
        exclude: benchmarks to leave out, with their part of the corpus.

    Raises:
        UsageError: there is no such domain or benchmark, or nothing is left.
        DataError: a file is not right.
    """
    known = domains_of(root)
    if domain not in known:
        raise unknown_name("domain", domain, known)
    folders = find_folders(root)
    names = {name for name, folder in folders.items() if not folder.is_corpus}
    for name in exclude:
        if name not in names:
            raise unknown_name("benchmark", name, names)
    left_out: dict[str, str] = {}
    items: dict[str, list[Example]] = {}
    texts: dict[str, list[str]] = {}
    stated: dict[str, str] = {}
    for name, folder in folders.items():
        if folder.domain != domain or folder.is_corpus or not folder.train.is_file():
            continue
        licence = stated_licence(folder)
        permitted, rule = judged(name, licence)
        record = benchmarks.get(name) or folder_benchmark(folder)
        documents = list(read_documents(folder.train, record.task_type))
        texts[name] = [text for document in documents for text in _texts(document)]
        if name in exclude:
            left_out[name] = "excluded"
        elif licences == "permissive" and not permitted:
            left_out[name] = licence
        else:
            every = licences == "all"
            kept = [doc for doc in documents if every or rule.takes(doc.subdomain)]
            if len(kept) < len(documents):
                left_out[f"{name}, {len(documents) - len(kept)} items"] = licence
            items[name] = [example for doc in kept for example in examples_of(record, doc)]
            stated[name] = licence if every else rule.licence
    sources = [_summary(name, stated[name], found) for name, found in items.items() if found]
    paragraphs = _corpus(root / domain, domain, licences, exclude, texts, left_out)
    corpora = {source.name: source.licence for source in SOURCES.get(domain, ())}
    for name, found in paragraphs.items():
        licence = corpora.get(name) or stated.get(name) or _joined(domain)
        sources.append(_summary(f"corpus: {name}", licence, found))
    examples = [*_flat(items.values()), *_flat(paragraphs.values())]
    if not examples:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UsageError(
            f"domain '{domain}' has no data that may be used ({reasons or 'its folder is empty'}): "
            "try --licences all, for experts that you do not pass on"
        )
    return TrainingData(
        domain=domain, examples=tuple(examples), sources=tuple(sources), left_out=left_out
    )


def examples_of(benchmark: Benchmark, document: Document) -> Iterator[Example]:
    """An item in its benchmark's prompt form with the right answer.

    A sentence with entities gives one example for each entity, and one for a phrase that is none.
    """
    request = build_request(benchmark, document)
    if request.kind == "text":
        if request.text.strip():
            yield Example(source=benchmark.name, prompt="", answer=request.text)
        return
    if benchmark.task_type == "token_classification":
        chosen: Iterable[int] = _entity_places(benchmark, document)
    elif benchmark.task_type in ("multiple_choice", "classification"):
        chosen = [document.gold]
    else:
        chosen = range(len(request.pairs))
    for place in chosen:
        prompt, answer = request.pairs[place]
        if answer.strip():
            yield Example(source=benchmark.name, prompt=prompt, answer=answer)


def _entity_places(benchmark: Benchmark, document: Document) -> list[int]:
    """Places among the request's pairs: candidates in order, for each the labels in order."""
    entities = benchmark.entities
    types = list(entity_types(benchmark, document))
    width = len(entities.others) + len(types)
    answer = document.answer if isinstance(document.answer, tuple) else ()
    spans = entity_spans([document.label_names[index] for index in answer])
    gold = {(start, end): kind for start, end, kind in spans}
    places, nothing = [], []
    for number, span in enumerate(candidate_spans(document.tokens, entities)):
        if gold.get(span) in types:
            label = len(entities.others) + types.index(gold[span])
            places.append(number * width + label)
        elif not any(start < span[1] and span[0] < end for start, end in gold):
            nothing.append(number * width)
    # One that is none, from the middle: the first word of a sentence is rarely an entity anyway.
    return [*places, *nothing[len(nothing) // 2 :][:1]]


def _corpus(
    folder: Path,
    domain: str,
    licences: str,
    exclude: Collection[str],
    items: Mapping[str, Iterable[str]],
    left_out: dict[str, str],
) -> dict[str, list[Example]]:
    """The paragraphs that may be used, by source."""
    path = folder / CORPUS_FILE
    if not path.is_file():
        return {}
    sources = SOURCES.get(domain, ())
    permitted = {source.name: is_permissive(source.licence) for source in sources}
    names = {source.name: names_of(source) for source in sources}
    # Without any doubtful source, paragraphs that nobody recognises can be taken, too.
    whole = bool(sources) and all(permitted.values())
    recognizer = Recognizer(domain, items)
    found: dict[str, list[Example]] = {}
    lost = 0
    for document in corpus_documents(path, f"corpus_{domain}"):
        source = recognizer.source(document.text)
        owners = names.get(source, [source]) if source else []
        doubtful = not source and bool(
            set(exclude) & {owner for listed in names.values() for owner in listed}
        )
        if licences == "permissive":
            doubtful |= not permitted.get(source, False) if source else not whole
        if doubtful or set(owners) & set(exclude):
            lost += len(document.text.encode())
            continue
        name = source or domain
        example = Example(source=f"corpus_{domain}", prompt="", answer=document.text)
        found.setdefault(name, []).append(example)
    if lost:
        left_out[f"corpus, {lost} bytes"] = "of sources that are left out, or not known"
    return dict(sorted(found.items()))


def _texts(document: Document) -> Iterator[str]:
    values = (document.context, document.question, document.text, document.rationale)
    yield from filter(None, values)
    yield " ".join(document.tokens)
    # As corpora write multiple choice: the question, then the right answer.
    if document.options and isinstance(document.answer, int):
        yield " ".join(filter(None, (*values[:3], document.options[document.gold])))


def _summary(name: str, licence: str, examples: Iterable[Example]) -> DataSource:
    sizes = [len((example.prompt + example.answer).encode()) for example in examples]
    return DataSource(name=name, licence=licence, items=len(sizes), bytes=sum(sizes))


def _joined(domain: str) -> str:
    licences = dict.fromkeys(source.licence for source in SOURCES.get(domain, ()))
    return "; ".join(licences) or "not stated"


def _flat(groups: Iterable[list[Example]]) -> Iterator[Example]:
    for group in groups:
        yield from group
