"""Labelled texts that routers are fitted on: items of benchmarks, and texts for the general path."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from gemcore.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from gem_suite.records import Benchmark
    from gem_suite.schema import Document

GENERAL = "none"
"""The label of texts that no expert is for."""

PROMPTS = "prompts"
"""The folder of what people ask, written for GEM, one prompt a line: a file for each domain that is asked
about, and `everyday.txt`, which is no domain's."""

_CHOICES = ("multiple_choice", "classification")


@attrs.frozen(kw_only=True)
class Example:
    """A text and where it belongs.

    Attributes:
        text: as a prompt might be.
        label: an expert's name, or `none`.
        source: the benchmark or file that it comes from: what it has in common with its like.
        licence: of the source; empty where nobody said.
        pair: a prompt and its right answer, where there is one: what experts are to foresee.
        chat: the text is what a user says in a chat, and is read in the model's chat template.
    """

    text: str
    label: str
    source: str
    licence: str = ""
    pair: tuple[str, str] | None = None
    chat: bool = False


def benchmark_examples(
    root: Path,
    experts: Mapping[str, str],
    *,
    items: int,
    seed: int,
    exclude: Collection[str] = (),
    licences: str = "all",
) -> tuple[Example, ...]:
    """Texts of the train items of every benchmark below `root`.

    In turns a text is the item alone (its context, text and question), the item in the prompt form of the
    suite, and the item as said in a chat: so that none is unfamiliar, and the form alone decides nothing.

    Args:
        root: the data folder, as for `gem eval suite`.
        experts: domain to expert; items of other domains are for the general path.
        items: the most of each benchmark.
        seed: of the choice among them.
        exclude: benchmarks to leave out.
        licences: `permissive` takes only items whose licence lets anybody pass on what was made of them
            (see `gem_suite.licences`), `all` takes all.

    Raises:
        UsageError: a benchmark that is to be left out does not exist, or nothing is left.
        GemError: an item is malformed.
    """
    from gem_suite.catalog import builtin_benchmarks, by_name
    from gem_suite.folders import find_folders, folder_benchmark, stated_licence
    from gem_suite.licences import judged
    from gem_suite.lines import read_documents

    folders = {n: f for n, f in find_folders(root).items() if not f.is_corpus}
    for name in exclude:
        if name not in folders:
            raise unknown_name("benchmark", name, folders)
    records = by_name(builtin_benchmarks())
    found: list[Example] = []
    for name, folder in folders.items():
        if name in exclude or not folder.train.is_file():
            continue
        benchmark = records.get(name) or folder_benchmark(folder)
        documents = list(read_documents(folder.train))
        licence = stated_licence(folder)
        if licences == "permissive":
            permitted, rule = judged(name, licence)
            documents = [item for item in documents if permitted and rule.takes(item.subdomain)]
            licence = rule.licence
        chosen = random.Random(f"{seed} {name}").sample(documents, min(items, len(documents)))
        label = experts.get(folder.domain, GENERAL)
        for i, document in enumerate(chosen):
            form = i % 3
            text = prompt_text(benchmark, document) if form == 1 else raw_text(document)
            if text.strip():
                found.append(
                    Example(
                        text=text,
                        label=label,
                        source=name,
                        licence=licence,
                        pair=answered(benchmark, document) if form == 1 else None,
                        chat=form == 2,
                    )
                )
    if not found:
        raise UsageError(
            f"{root} has no benchmark with a train.jsonl whose licence is among '{licences}', so there is "
            "nothing to fit on: try --licences all, for a router that you do not pass on"
        )
    return tuple(found)


def raw_text(document: Document) -> str:
    """An item without any wording around it."""
    return "\n".join(filter(None, (document.context, document.text, document.question)))


def prompt_text(benchmark: Benchmark, document: Document) -> str:
    """An item as the suite puts it to a model."""
    from gem_suite.prompts import build_request

    request = build_request(benchmark, document)
    if request.pairs:
        return request.pairs[0][0]
    return request.prompt or request.text


def answered(benchmark: Benchmark, document: Document) -> tuple[str, str] | None:
    """An item's prompt and right answer; None where the suite's form has no such pair."""
    from gem_suite.prompts import build_request

    request = build_request(benchmark, document)
    if request.kind == "text":
        return "", request.text
    if benchmark.task_type == "token_classification" or not request.pairs:
        return None
    place = document.gold if benchmark.task_type in _CHOICES else 0
    return request.pairs[place][0], request.pairs[place][1]


def general_examples(path: Path, items: int, seed: int) -> tuple[Example, ...]:
    """Paragraphs of a text file, as examples for the general path.

    Raises:
        UsageError: the file does not exist or holds no text.
    """
    try:
        paragraphs = [p.strip() for p in path.read_text(encoding="utf-8").split("\n\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    paragraphs = [paragraph for paragraph in paragraphs if paragraph]
    if not paragraphs:
        raise UsageError(f"{path} holds no text")
    chosen = random.Random(f"{seed} {path.name}").sample(paragraphs, min(items, len(paragraphs)))
    return tuple(Example(text=text, label=GENERAL, source=path.name) for text in chosen)


def written_examples(domains: Mapping[str, str]) -> tuple[Example, ...]:
    """What people ask a model, twice each: as they type it, and in a chat.

    Args:
        domains: domain to the name of its expert; what has none is for the general path.
    """
    found = sorted(files("gem_scar").joinpath(PROMPTS).iterdir(), key=lambda file: file.name)
    return tuple(
        Example(
            text=text,
            label=domains.get(file.name.removesuffix(".txt"), GENERAL),
            source=f"{PROMPTS}/{file.name}",
            licence="Apache-2.0",
            chat=chat,
        )
        for file in found
        for text in file.read_text(encoding="utf-8").splitlines()
        for chat in (True, False)
    )


def sources_of(examples: Iterable[Example]) -> list[dict[str, str | int]]:
    """What examples came from, for the fitted file: `name`, `licence` and number of `items`."""
    counts = Counter((example.source, example.licence) for example in examples)
    return [
        {"name": name, "licence": licence, "items": items}
        for (name, licence), items in sorted(counts.items())
    ]


def check_labels(examples: Iterable[Example], experts: Sequence[str], least: int = 2) -> None:
    """Check that every label is an expert's name and that each expert has examples.

    Raises:
        UsageError: it is not so.
    """
    counts = dict.fromkeys(experts, 0)
    for example in examples:
        if example.label == GENERAL:
            continue
        if example.label not in counts:
            raise unknown_name("expert", example.label, [*experts, GENERAL])
        counts[example.label] += 1
    few = [name for name, count in counts.items() if count < least]
    if few:
        raise UsageError(
            f"expert '{few[0]}' has {counts[few[0]]} example texts, and at least {least} are needed "
            "to fit a router: give more data, or leave the expert out of the set"
        )
