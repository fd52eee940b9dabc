"""Requests to an engine, many at a time, and its answers back in order."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from gem_suite.engines import answer_prompts, score_pairs
from gem_suite.engines_text import Encoder, fit
from gem_suite.experts import prior_shares
from gem_suite.requests import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gem_suite.engines import Engine
    from gem_suite.engines_text import Ids, TokenPair
    from gem_suite.experts import Priors
    from gem_suite.requests import Request

    Likelihoods = Mapping[TokenPair, float]
    """Natural logarithms."""


@attrs.frozen(kw_only=True)
class Answer:
    """What came of one request.

    Attributes:
        outcome: for scoring.
        cut: how many of its texts were too long for the context, and lost their beginning.
        prior: over the experts, that its context got; None where requests have none of their own.
    """

    outcome: Outcome
    cut: int = 0
    prior: Mapping[str, float] | None = None


@attrs.frozen(kw_only=True)
class _Encoded:
    """The pairs of one request as token ids, all short enough."""

    pairs: tuple[TokenPair, ...]
    cut: int


@attrs.frozen(kw_only=True)
class _Generated:
    """The text of one request, 1 where its prompt was cut, and the pair that was scored with it."""

    text: str = ""
    cut: int = 0
    scored: Likelihoods = attrs.Factory(dict)


_NOTHING = _Generated()


def answer_requests(
    engine: Engine,
    requests: Sequence[Request],
    *,
    chat: bool = False,
    known: Likelihoods | None = None,
) -> list[Answer]:
    """Ask all requests, and return the answers in their order.

    Equal pairs are scored once, and pairs that begin alike next to each other.

    Args:
        engine: who answers.
        requests: what is asked.
        chat: put prompts and contexts into the model's chat template.
        known: log-likelihoods from `shared_likelihoods`.

    Raises:
        UsageError: the model has no chat template, or no token to begin a text with.
    """
    encoder = Encoder(engine=engine, chat=chat)
    encoded = [_encode(encoder, request) for request in requests]
    seen: Priors | None = {} if engine.experts else None
    generated = _generate(encoder, requests, encoded, seen)
    values = dict(known or {})
    values |= {pair: value for one in generated.values() for pair, value in one.scored.items()}
    values |= _score(engine, [pair for one in encoded for pair in one.pairs], values, seen)
    answers = []
    for number, (request, one) in enumerate(zip(requests, encoded, strict=True)):
        likelihoods = [values[pair] for pair in one.pairs]
        if request.kind == "text":
            likelihoods = [math.fsum(likelihoods)]
        made = generated.get(number, _NOTHING)
        answers.append(
            Answer(
                outcome=Outcome(likelihoods=tuple(likelihoods), text=made.text),
                cut=one.cut + made.cut,
                prior=None if seen is None else _prior(engine, request, one, seen),
            )
        )
    return answers


def _prior(
    engine: Engine, request: Request, encoded: _Encoded, seen: Priors
) -> dict[str, float] | None:
    """The prior of a request's first context; a whole text has none, and nothing asked has none."""
    if request.kind == "text" or not encoded.pairs:
        return None
    first = encoded.pairs[0]
    if first[0] not in seen:
        # Its likelihood was known already.
        seen.update((first[0], prior) for prior, _ in engine.groups([first]))
    prior = seen[first[0]]
    return None if prior is None else prior_shares(prior, engine.experts)


def shared_likelihoods(
    engine: Engine, requests: Iterable[Request], *, chat: bool = False
) -> dict[TokenPair, float]:
    """Log-likelihoods of the pairs that several requests have in common, such as content-free ones.

    What they are does not depend on which requests are asked later, or in which company.
    """
    counts = Counter(
        key
        for request in requests
        for key in {
            (context, continuation, request.system, request.delimiter)
            for context, continuation in request.pairs
        }
    )
    encoder = Encoder(engine=engine, chat=chat)
    pairs = [
        fit(encoder.pair(*key), engine.context_length)[0] for key, n in counts.items() if n > 1
    ]
    return _score(engine, pairs, {})


def _encode(encoder: Encoder, request: Request) -> _Encoded:
    if request.kind == "text":
        return _Encoded(pairs=tuple(encoder.text(request.text)), cut=0)
    fitted = [
        fit(
            encoder.pair(context, continuation, request.system, request.delimiter),
            encoder.engine.context_length,
        )
        for context, continuation in request.pairs
    ]
    return _Encoded(
        pairs=tuple(pair for pair, _ in fitted), cut=sum(was_cut for _, was_cut in fitted)
    )


def _score(
    engine: Engine,
    pairs: Iterable[TokenPair],
    known: Likelihoods,
    seen: Priors | None = None,
) -> dict[TokenPair, float]:
    """Log-likelihood of every pair that is not known; nothing at all is certain to follow."""
    distinct = {pair for pair in pairs if pair not in known}
    values = {pair: 0.0 for pair in distinct if not pair[1]}
    asked = sorted(distinct - values.keys(), key=lambda pair: (pair[0] + pair[1], len(pair[0])))
    if asked:
        for pair, score in zip(asked, score_pairs(engine, asked, seen), strict=True):
            values[pair] = score.log_likelihood
    return values


def _generate(
    encoder: Encoder,
    requests: Sequence[Request],
    encoded: Sequence[_Encoded],
    seen: Priors | None,
) -> dict[int, _Generated]:
    """By the request's number: what was generated, and scored with it."""
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for number, request in enumerate(requests):
        if request.kind == "generate":
            groups.setdefault((request.max_tokens, request.stop), []).append(number)
    found: dict[int, _Generated] = {}
    for (wanted, stop), numbers in groups.items():
        # A model with a short context still reads half of it.
        max_tokens = min(wanted, max(1, encoder.engine.context_length // 2))
        prompts = [
            encoder.prompt(requests[number].prompt, requests[number].system, max_tokens)
            for number in numbers
        ]
        references = [
            _reference(encoded[number], prompt)
            for number, (prompt, _) in zip(numbers, prompts, strict=True)
        ]
        answers = answer_prompts(
            encoder.engine,
            [prompt for prompt, _ in prompts],
            references,
            max_tokens=max_tokens,
            stop=stop,
            seen=seen,
        )
        for number, (prompt, cut), reference, (text, value) in zip(
            numbers, prompts, references, answers, strict=True
        ):
            scored = {(prompt, reference): value} if reference else {}
            found[number] = _Generated(text=text, cut=int(cut), scored=scored)
    return found


def _reference(encoded: _Encoded, prompt: Ids) -> Ids:
    """The continuation of a request's only pair, if its context is the very prompt."""
    if len(encoded.pairs) == 1 and encoded.pairs[0][0] == prompt:
        return encoded.pairs[0][1]
    return ()
