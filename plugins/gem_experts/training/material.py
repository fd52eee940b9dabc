"""All the tokens of a training: the domain's, general ones, and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
from attrs import validators

from gem_experts.training.data import TrainingData, domains_of, read_training_data
from gem_experts.training.measure import first_bytes
from gem_experts.training.sequences import (
    PROMPT_WEIGHT,
    Mixture,
    TokenText,
    encode_example,
    encode_text,
    usable,
)
from gem_suite.folders import CORPUS_FILE as HELDOUT_FILE
from gem_suite.folders import corpus_documents
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gem_experts.training.data import Example
    from gem_suite.records import Benchmark
    from gemcore.text.tokenizer import Tokenizer

GENERAL_LONGEST = 256
"""The longest piece of general text, tokens: importances need many texts rather than long ones."""

GENERAL_HELDOUT_BYTES = 56_000
"""So much general text is measured before and after, evenly of all sources."""


@attrs.frozen(kw_only=True)
class MaterialSettings:
    """What is read, and how it is cut.

    Attributes:
        root: the folder of the benchmark data.
        domain: what is learned.
        licences: `permissive` or `all`.
        exclude: benchmarks to leave out everywhere.
        general: a folder of .txt files to preserve; None: the other domains' texts.
        batch_tokens: the most tokens of a pass, which no sequence exceeds.
        general_tokens: how many tokens of general text.
        heldout_bytes: so much of the domain's held-out text is measured, and of general text; None: all of
            the domain's.
        prompt_weight: of prompts in the loss.
        text_share: share of the corpus in the tokens.
        seed: of the order, and of the choice of general text.
    """

    root: Path
    domain: str
    licences: str = "permissive"
    exclude: tuple[str, ...] = ()
    general: Path | None = None
    batch_tokens: int = attrs.field(default=1024, validator=validators.ge(16))
    general_tokens: int = 16384
    heldout_bytes: int | None = None
    prompt_weight: float = PROMPT_WEIGHT
    text_share: float = 0.5
    seed: int = 0


@attrs.frozen(kw_only=True, eq=False)
class Material:
    """The tokens of a training.

    Attributes:
        data: where the domain's texts come from.
        mixture: the domain's passes.
        general: pieces of general text, by source; empty without preservation.
        heldout, general_heldout: what is measured.
        digest: SHA-256 over all of it.
    """

    data: TrainingData
    mixture: Mixture
    general: Mapping[str, Sequence[TokenText]]
    heldout: Sequence[TokenText]
    general_heldout: Sequence[TokenText]
    digest: str


def read_material(
    settings: MaterialSettings,
    benchmarks: Mapping[str, Benchmark],
    tokenizer: Tokenizer,
    *,
    preserve: bool,
) -> Material:
    """Read and encode everything.

    Raises:
        UsageError: nothing may be used, all texts are too short, or a folder has no text.
        DataError: a file is not right.
    """
    data = _read(settings, benchmarks, settings.domain)
    longest = settings.batch_tokens
    texts: list[TokenText] = []
    questions: list[TokenText] = []
    for example in data.examples:
        found = encode_example(tokenizer, example, longest, settings.prompt_weight)
        (texts if example.is_text else questions).extend(found)
    mixture = Mixture(
        texts=usable(texts),
        questions=usable(questions),
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
        text_share=settings.text_share,
    )
    if not mixture.texts and not mixture.questions:
        raise UsageError(
            f"domain '{settings.domain}' has nothing to learn: none of its {len(data.examples)} texts "
            "has at least 1 token to foresee"
        )
    general: dict[str, list[TokenText]] = {}
    if preserve:
        sources = _general_sources(settings, benchmarks)
        share = settings.general_tokens // max(1, len(sources))
        general = {
            name: _some(tokenizer, examples, share, (settings.seed, number), settings)
            for number, (name, examples) in enumerate(sources.items())
        }
        general = {name: found for name, found in general.items() if found}
        if not general:
            raise UsageError(
                "there is no general text to preserve: name a folder of .txt files with --general, or "
                "give --no-preserve"
            )
    heldout = _heldout(tokenizer, settings, settings.domain, settings.heldout_bytes)
    others = [name for name in domains_of(settings.root) if name != settings.domain]
    general_bytes = min(GENERAL_HELDOUT_BYTES, settings.heldout_bytes or GENERAL_HELDOUT_BYTES)
    general_heldout = [
        text
        for name in others
        for text in _heldout(tokenizer, settings, name, general_bytes // len(others))
    ]
    groups = [mixture.texts, mixture.questions, *general.values(), heldout, general_heldout]
    return Material(
        data=data,
        mixture=mixture,
        general=general,
        heldout=heldout,
        general_heldout=general_heldout,
        digest=_digest(groups),
    )


def passes_of(mixture: Mixture, epochs: float) -> int:
    """How many passes so many epochs are, at least one."""
    whole = int(epochs)
    count = sum(len(mixture.epoch(number)) for number in range(whole))
    if epochs > whole:
        count += round((epochs - whole) * len(mixture.epoch(whole)))
    return max(1, count)


def _read(
    settings: MaterialSettings, benchmarks: Mapping[str, Benchmark], domain: str
) -> TrainingData:
    return read_training_data(
        settings.root,
        domain,
        benchmarks,
        licences=settings.licences,
        exclude=settings.exclude,
    )


def _general_sources(
    settings: MaterialSettings, benchmarks: Mapping[str, Benchmark]
) -> dict[str, list[str]]:
    """Texts by source: a folder's files, or the other domains."""
    if settings.general is not None:
        files = sorted(settings.general.glob("*.txt"))
        if not files:
            raise UsageError(f"--general {settings.general} holds no .txt file")
        return {
            path.stem: [document.text for document in corpus_documents(path, path.stem)]
            for path in files
        }
    found: dict[str, list[str]] = {}
    for domain in domains_of(settings.root):
        if domain != settings.domain:
            try:
                data = _read(settings, benchmarks, domain)
            except UsageError:
                # A domain of which nothing may be used cannot be preserved by its own text.
                continue
            found[domain] = [_whole(example) for example in data.examples]
    return found


def _whole(example: Example) -> str:
    return example.prompt + example.answer


def _some(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    tokens: int,
    seed: tuple[int, int],
    settings: MaterialSettings,
) -> list[TokenText]:
    """Pieces of texts, drawn at random until there are `tokens` tokens."""
    longest = min(GENERAL_LONGEST, settings.batch_tokens)
    chosen: list[TokenText] = []
    read = 0
    for place in np.random.default_rng(seed).permutation(len(texts)):
        if read >= tokens:
            break
        # The first piece alone: a long text must not be all that is heard of its domain.
        for piece in usable(encode_text(tokenizer, texts[place], longest)[:1]):
            chosen.append(piece)
            read += piece.length
    return chosen


def _heldout(
    tokenizer: Tokenizer, settings: MaterialSettings, domain: str, most: int | None
) -> list[TokenText]:
    path = settings.root / domain / HELDOUT_FILE
    if not path.is_file():
        return []
    pieces = (
        piece
        for document in corpus_documents(path, domain)
        for piece in encode_text(tokenizer, document.text, settings.batch_tokens)
    )
    return first_bytes(usable(pieces), most)


def _digest(groups: Iterable[Collection[TokenText]]) -> str:
    digest = hashlib.sha256()
    for group in groups:
        digest.update(f"{len(group)};".encode())
        for text in group:
            digest.update(text.tokens.tobytes())
            digest.update(text.weights.tobytes())
    return digest.hexdigest()
