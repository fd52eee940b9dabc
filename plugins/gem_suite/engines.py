"""What answers requests: a compiled model, or the same weights in float32 in torch."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import attrs

from gemcore.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from gem_suite.engines_text import TokenPair
    from gem_suite.experts import Priors
    from gemcore.generation import Answer
    from gemcore.priors import GivenPrior, Prior
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

    @property
    def usual_slots(self) -> int:
        """Cache positions that are best in use at a time, unless one text alone needs more."""
        ...

    def forward(self, prior: Prior | None = None) -> Forward:
        """Passes over a cache of their own, with one prior over the experts of a routed model.

        See `gemcore.scoring.Forward`.
        """
        ...

    def groups(
        self, pairs: Sequence[TokenPair]
    ) -> Iterator[tuple[Prior | None, Sequence[TokenPair]]]:
        """Neighbours that may share passes, and their prior: a routed model may have one a context."""
        ...

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts that priors are over; none where no request has a prior of its own."""
        ...

    def for_domain(self, domain: str) -> Engine:
        """Who answers requests of a domain: a router may have to be told it."""
        ...


class CompiledEngine:
    """A session of a compiled model.

    Args:
        session: the opened model.
        labelled: the expert of each domain, for a router that is told the label of a request.
        prior: of all requests; None: each has its own.
    """

    exact = True

    def __init__(
        self,
        session: Session,
        labelled: Mapping[str, str] | None = None,
        prior: GivenPrior | None = None,
    ) -> None:
        self._session = session
        self._labelled = labelled
        self._given = prior
        manifest = session.bundle.manifest
        self._network = manifest.prior_tokens > 0
        told = prior is not None or labelled is not None
        self.experts = manifest.experts if self._network or told else ()
        self.tokenizer = session.tokenizer
        self.template = session.bundle.chat_template()
        self.context_length = session.context_length
        self.slots = session.config.context_length
        self.usual_slots = min(self.slots, 4096)

    def forward(self, prior: Prior | None = None) -> Forward:
        """See `Engine.forward`."""
        return self._session.passes_aside(prior=prior)

    def groups(
        self, pairs: Sequence[TokenPair]
    ) -> Iterator[tuple[Prior | None, Sequence[TokenPair]]]:
        """See `Engine.groups`.

        A context of one token, the one that begins every text, tells a network nothing: no opinion.
        """
        if self._given is not None:
            yield self._session.prior_of((), self._given), pairs
        elif not self._network:
            yield from self._session.groups_by_prior(pairs)
        else:
            for begins, group in groupby(pairs, key=lambda pair: len(pair[0]) == 1):
                if begins:
                    yield self._session.prior_of((), {}), list(group)
                else:
                    yield from self._session.groups_by_prior(list(group))

    def for_domain(self, domain: str) -> CompiledEngine:
        """See `Engine.for_domain`; a domain without an expert takes the general path."""
        if self._labelled is None:
            return self
        expert = self._labelled.get(domain)
        return CompiledEngine(self._session, prior={} if expert is None else {expert: 1.0})


def score_pairs(
    engine: Engine, pairs: Sequence[TokenPair], seen: Priors | None = None
) -> list[Score]:
    """How likely each continuation is after its context, as token ids, at least one of each.

    A pair may have `engine.context_length + 1` tokens, for the last one is not read. `seen` gets the
    prior of each context.
    """
    from gem_suite.engines_trie import score_trie

    scores: list[Score] = []
    for prior, group in engine.groups(pairs):
        if seen is not None:
            seen.update((context, prior) for context, _ in group)
        scores += score_trie(group, engine.forward(prior), engine.slots, engine.usual_slots)
    return scores


def answer_prompts(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    references: Sequence[tuple[int, ...]],
    *,
    max_tokens: int,
    stop: Sequence[str],
    seen: Priors | None = None,
) -> list[tuple[str, float]]:
    """The likeliest continuation of each prompt, token by token, and its reference's log-likelihood.

    Args:
        engine: who answers.
        prompts: ids; each leaves room for `max_tokens`.
        references: ids of what should follow each prompt; empty where that is not asked.
        max_tokens: the most tokens of an answer.
        stop: texts that end an answer and are no part of it.
        seen: gets the prior of each prompt.
    """
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
    scores = finish_answers(engine, answers, references, seen)
    return [(answer.result().text, value) for answer, value in zip(answers, scores, strict=True)]


def finish_answers(
    engine: Engine,
    answers: Sequence[Answer],
    references: Sequence[tuple[int, ...]],
    seen: Priors | None = None,
) -> list[float]:
    """Let answers grow to their end; the log-likelihood of each one's reference, 0.0 of an empty one."""
    from gem_suite.engines_generate import answer_side_by_side

    scores: list[float] = []
    for prior, group in engine.groups([(tuple(answer.prompt), ()) for answer in answers]):
        part = slice(len(scores), len(scores) + len(group))
        if seen is not None:
            seen.update((context, prior) for context, _ in group)
        forward = engine.forward(prior)
        scores += answer_side_by_side(answers[part], references[part], forward, engine.slots)
    return scores


@attrs.frozen(kw_only=True)
class EngineChoice:
    """Which engine to open, in words that another process understands too.

    Attributes:
        name: one of `ENGINES`.
        bundle: the compiled bundle's folder; of no use to float32.
        model: what `--model` says; of no use to a bundle.
        context_length: the most tokens to read together; None: as the model allows.
        no_plugins: load no plugins but GEM's own.
        labelled: domains with their experts, for a router that is told the label of a request.
    """

    name: str
    bundle: Path | None = None
    model: str = ""
    context_length: int | None = None
    no_plugins: bool = False
    labelled: tuple[tuple[str, str], ...] | None = None


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

        session = open_session(
            choice.bundle, threads=threads, context_length=choice.context_length, host=host
        )
        return CompiledEngine(session, None if choice.labelled is None else dict(choice.labelled))
    if choice.name != "float32":
        raise unknown_name("engine", choice.name, ENGINES)
    from gem_suite.engines_eager import EagerEngine
    from gemcore.models.sources import load_checkpoint

    return EagerEngine(
        load_checkpoint(choice.model, host), threads=threads, context_length=choice.context_length
    )
