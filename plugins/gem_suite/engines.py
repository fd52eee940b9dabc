"""What answers requests: a compiled model, or the same weights in float32 in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from gemcore.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gem_suite.engines_text import TokenPair
    from gemcore.scoring import Forward, Score
    from gemcore.session import Session
    from gemcore.text.chat import ChatTemplate
    from gemcore.text.tokenizer import Tokenizer

ENGINES = ("compiled", "float32")
"""What users type."""


class Engine(Protocol):
    """A model that reads tokens, and what goes with it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...

    @property
    def template(self) -> ChatTemplate:
        """The model's chat template, which may be empty."""
        ...

    @property
    def context_length(self) -> int:
        """The most tokens that the model reads together."""
        ...

    @property
    def exact(self) -> bool:
        """Whether a score is the same to the bit, whatever else is scored in the same call."""
        ...

    @property
    def slots(self) -> int:
        """The most cache positions that passes may use."""
        ...

    def forward(self) -> Forward:
        """Passes over a cache of their own; see `gemcore.scoring.Forward`."""
        ...


class CompiledEngine:
    """A session of a compiled model."""

    exact = True

    def __init__(self, session: Session) -> None:
        self._session = session
        self.tokenizer = session.tokenizer
        self.template = session.bundle.chat_template()
        self.context_length = session.context_length
        self.slots = session.config.context_length

    def forward(self) -> Forward:
        """See `Engine.forward`."""
        return self._session.passes_aside()


def score_pairs(engine: Engine, pairs: Sequence[TokenPair]) -> list[Score]:
    """How likely each continuation is after its context, as token ids, at least one of each.

    A pair may have `engine.context_length + 1` tokens, for the last one is not read.
    """
    from gem_suite.engines_trie import score_trie

    return score_trie(pairs, engine.forward(), engine.slots)


def answer_prompts(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    references: Sequence[tuple[int, ...]],
    *,
    max_tokens: int,
    stop: Sequence[str],
) -> list[tuple[str, float]]:
    """The likeliest continuation of each prompt, token by token, and its reference's log-likelihood.

    Args:
        engine: who answers.
        prompts: ids; each leaves room for `max_tokens`.
        references: ids of what should follow each prompt; empty where that is not asked.
        max_tokens: the most tokens of an answer.
        stop: texts that end an answer and are no part of it.
    """
    from gem_suite.engines_generate import answer_side_by_side
    from gemcore.generation import Answer
    from gemcore.text.sampling import Sampler, SamplingSettings
    from gemcore.text.streaming import TextStream

    answers = [
        Answer(
            prompt=list(prompt),
            max_tokens=max_tokens,
            context_length=engine.context_length,
            sampler=Sampler(SamplingSettings()),
            shown=TextStream(engine.tokenizer, stop),
            ends=frozenset(engine.tokenizer.stop_token_ids),
        )
        for prompt in prompts
    ]
    scores = answer_side_by_side(answers, references, engine.forward(), engine.slots)
    return [(answer.result().text, value) for answer, value in zip(answers, scores, strict=True)]


@attrs.frozen(kw_only=True)
class EngineChoice:
    """Which engine to open, in words that another process understands too.

    Attributes:
        name: one of `ENGINES`.
        bundle: the compiled bundle's folder; of no use to float32.
        model: what `--model` says; of no use to a bundle.
        context_length: the most tokens to read together; None: as the model allows.
        no_plugins: load no plugins but GEM's own.
    """

    name: str
    bundle: Path | None = None
    model: str = ""
    context_length: int | None = None
    no_plugins: bool = False


def open_engine(choice: EngineChoice, threads: int | None = None) -> Engine:
    """Open the engine that `choice` names, on `threads` threads; None: on all cores.

    Raises:
        UsageError: there is no such engine, bundle or model.
        GemError: it cannot be opened.
    """
    from gemcore.discovery import HostSettings
    from gemcore.plugins import get_host

    host = get_host(HostSettings.from_environment(no_plugins=choice.no_plugins))
    if choice.name == "compiled" and choice.bundle is not None:
        from gemcore.api import open_session

        return CompiledEngine(
            open_session(
                choice.bundle, threads=threads, context_length=choice.context_length, host=host
            )
        )
    if choice.name != "float32":
        raise unknown_name("engine", choice.name, ENGINES)
    from gem_suite.engines_eager import EagerEngine
    from gemcore.models.sources import load_checkpoint

    return EagerEngine(
        load_checkpoint(choice.model, host), threads=threads, context_length=choice.context_length
    )
