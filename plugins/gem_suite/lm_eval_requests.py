"""The three kinds of request of lm-evaluation-harness, answered by an engine.

Texts become tokens by the harness's conventions (version 0.4), and nothing here imports it. Every
function answers many requests and yields each answer with the number of its request, as it is found.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.engines import score_pairs
from gem_suite.engines_text import Encoder, encode_pair, first_token, fit
from gemcore.errors import UsageError, unknown_name
from gemcore.text.sampling import SamplingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gem_suite.engines import Engine
    from gem_suite.engines_text import Ids, TokenPair
    from gemcore.text.tokenizer import Tokenizer

BATCH_PAIRS = 256
BATCH_TOKENS = 65_536
"""Pairs are scored together until there are more of them, or more tokens in them, than this."""

BATCH_PROMPTS = 64
"""Prompts that are answered together."""

DEFAULT_MAX_TOKENS = 256
"""The longest answer where a task does not say, as with the harness's own models."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
_NO_EFFECT = ("do_sample", "until", "num_beams", "use_cache", "max_length")


@attrs.frozen(kw_only=True)
class GenerationOptions:
    """How the harness wants a text to go on.

    Attributes:
        stop: texts that end an answer and are no part of it.
        max_tokens: the most tokens of an answer.
        sampling: how tokens are chosen; its seed, where there is one, is of the first request.
    """

    stop: tuple[str, ...] = ()
    max_tokens: int = DEFAULT_MAX_TOKENS
    sampling: SamplingSettings = attrs.field(factory=SamplingSettings)

    @classmethod
    def from_harness(cls, given: Mapping[str, Any]) -> GenerationOptions:
        """Read a task's `generation_kwargs` as `normalize_gen_kwargs` of the harness does.

        Without `do_sample`, a temperature above 0 samples; with `do_sample: false` the likeliest
        token is taken, whatever else is said.

        >>> GenerationOptions.from_harness({"until": ".", "max_new_tokens": 8}).max_tokens
        8

        Raises:
            UsageError: a setting is unknown or out of bounds, or asks for several beams.
        """
        for name in given:
            known = (*_LENGTHS, *_SAMPLING, *_NO_EFFECT)
            if name not in known:
                raise unknown_name("generation setting", name, known)
        if given.get("num_beams") not in (None, 1):
            raise UsageError(
                f"num_beams is {given['num_beams']}, but GEM follows one beam: leave it out"
            )
        lengths = [given[name] for name in _LENGTHS if given.get(name) is not None]
        return cls(
            stop=_stop_texts(given.get("until")),
            max_tokens=_whole("max_gen_toks", lengths[0]) if lengths else DEFAULT_MAX_TOKENS,
            sampling=_sampling(given),
        )


def encode_pairs(
    engine: Engine, pairs: Sequence[tuple[str, str]], *, rendered: bool = False
) -> tuple[list[TokenPair], int]:
    """Token ids of contexts and their continuations, and how many lost their beginning.

    Args:
        engine: for whom; what is too long for its context is cut at the beginning.
        pairs: contexts, each with a continuation.
        rendered: contexts are rendered chats, in which control tokens are written as text.
    """
    encode = encode_rendered_pair if rendered else encode_pair
    fitted = [
        fit(encode(engine.tokenizer, context, continuation), engine.context_length)
        for context, continuation in pairs
    ]
    return [pair for pair, _ in fitted], sum(was_cut for _, was_cut in fitted)


def likelihoods(
    engine: Engine, pairs: Sequence[TokenPair]
) -> Iterator[tuple[int, tuple[float, bool]]]:
    """How likely each continuation is after its context, and whether it is the likeliest one.

    Equal pairs are scored once, and pairs that begin alike in the same batch.

    Yields:
        The pair's number; the log-likelihood in nats, and whether every token is the likeliest.
    """
    numbers: dict[TokenPair, list[int]] = {}
    for number, pair in enumerate(pairs):
        numbers.setdefault(pair, []).append(number)
    for pair in [pair for pair in numbers if not pair[1]]:
        # Nothing at all is certain to follow.
        yield from ((number, (0.0, True)) for number in numbers.pop(pair))
    for batch in _batches(sorted(numbers, key=lambda pair: (pair[0] + pair[1], len(pair[0])))):
        for pair, score in zip(batch, score_pairs(engine, batch), strict=True):
            value = (score.log_likelihood, score.greedy)
            yield from ((number, value) for number in numbers[pair])


def text_likelihoods(engine: Engine, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
    """Log-likelihood of whole texts in nats, the first token included, each with its number.

    A text longer than the context is read in windows, none of which scores a token again.
    """
    encoder = Encoder(engine=engine)
    windows: list[TokenPair] = []
    owners: list[int] = []
    left = [0] * len(texts)
    for number, text in enumerate(texts):
        own = encoder.text(text) or [((first_token(engine.tokenizer),), ())]
        windows += own
        owners += [number] * len(own)
        left[number] = len(own)
    values: list[list[float]] = [[] for _ in texts]
    for place, (value, _) in likelihoods(engine, windows):
        number = owners[place]
        values[number].append(value)
        if len(values[number]) == left[number]:
            yield number, math.fsum(values[number])


def continuations(
    engine: Engine,
    prompts: Sequence[tuple[str, GenerationOptions]],
    *,
    rendered: bool = False,
    seed: int = 0,
) -> Iterator[tuple[int, str]]:
    """What an engine writes after each prompt, with the prompt's number.

    A prompt is cut at its beginning, so that the longest answer fits behind it; an answer takes at
    most half of the context.

    Args:
        engine: who writes.
        prompts: texts, each with how it should go on.
        rendered: prompts are rendered chats, in which control tokens are written as text.
        seed: of random choices, where the options have none; each prompt draws its own.
    """
    groups: dict[GenerationOptions, list[int]] = {}
    for number, (_, options) in enumerate(prompts):
        groups.setdefault(options, []).append(number)
    for options, numbers in groups.items():
        for begin in range(0, len(numbers), BATCH_PROMPTS):
            part = numbers[begin : begin + BATCH_PROMPTS]
            max_tokens = min(options.max_tokens, max(1, engine.context_length // 2))
            ids = [
                _prompt_ids(engine, prompts[number][0], max_tokens, rendered=rendered)
                for number in part
            ]
            first = seed if options.sampling.seed is None else options.sampling.seed
            seeds = [first + number for number in part]
            texts = _answer(engine, ids, attrs.evolve(options, max_tokens=max_tokens), seeds)
            yield from zip(part, texts, strict=True)


def encode_rendered_pair(tokenizer: Tokenizer, context: str, continuation: str) -> TokenPair:
    """Ids of a rendered chat and of what follows it, divided as by `encode_pair`.

    Control tokens that are written in the text become those tokens, as with the harness's own
    models, and one that begins a text is not put before it again.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    if not kept:
        ids = tokenizer.encode(continuation, special=True)
        start = first_token(tokenizer)
        return (start,), tuple(ids[1:] if ids[:1] == [start] and ids[1:] else ids)
    whole = encode_rendered(tokenizer, kept + continuation)
    length = min(len(encode_rendered(tokenizer, kept)), max(1, len(whole) - bool(continuation)))
    return tuple(whole[:length]), tuple(whole[length:])


def encode_rendered(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a rendered chat, after the token that begins a text where one is expected."""
    ids = tokenizer.encode(text, special=True)
    begin = tokenizer.token_id(tokenizer.bos_token) if tokenizer.bos_token else None
    if tokenizer.add_bos and begin is not None and ids[:1] != [begin]:
        return [begin, *ids]
    return ids


def _batches(pairs: Sequence[TokenPair]) -> Iterator[list[TokenPair]]:
    batch: list[TokenPair] = []
    tokens = 0
    for pair in pairs:
        own = len(pair[0]) + len(pair[1])
        if batch and (len(batch) == BATCH_PAIRS or tokens + own > BATCH_TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(pair)
        tokens += own
    if batch:
        yield batch


def _prompt_ids(engine: Engine, prompt: str, max_tokens: int, *, rendered: bool) -> Ids:
    if not rendered:
        return Encoder(engine=engine).prompt(prompt, "", max_tokens)[0]
    ids = encode_rendered(engine.tokenizer, prompt)
    room = max(1, engine.context_length - max_tokens)
    return tuple(ids[-room:] or [first_token(engine.tokenizer)])


def _answer(
    engine: Engine, prompts: Sequence[Ids], options: GenerationOptions, seeds: Sequence[int]
) -> list[str]:
    from gem_suite.engines import finish_answers
    from gemcore.generation import Answer
    from gemcore.text.sampling import Sampler
    from gemcore.text.streaming import TextStream

    answers = [
        Answer(
            prompt=list(prompt),
            max_tokens=options.max_tokens,
            context_length=engine.context_length,
            sampler=Sampler(attrs.evolve(options.sampling, seed=seed)),
            shown=TextStream(engine.tokenizer, options.stop),
            ends=frozenset(engine.tokenizer.stop_token_ids),
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    finish_answers(engine, answers, [()] * len(answers))
    return [answer.result().text for answer in answers]


def _stop_texts(until: Any) -> tuple[str, ...]:
    texts = [until] if isinstance(until, str) else until or []
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"until is {until!r}: it must be a text or a list of texts")
    # The harness has tasks with an empty one, by which it means nothing.
    return tuple(dict.fromkeys(filter(None, texts)))


def _sampling(given: Mapping[str, Any]) -> SamplingSettings:
    values = {name: given[name] for name in _SAMPLING if given.get(name) is not None}
    sample = given.get("do_sample")
    if sample is None:
        sample = values.get("temperature", 0.0) != 0.0
    if not sample:
        values = {name: values[name] for name in ("repetition_penalty", "seed") if name in values}
    elif "temperature" not in values:
        values["temperature"] = 1.0
    return SamplingSettings(**values)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}: it must be a whole number of at least 1")
    return value
