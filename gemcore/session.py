"""A model that is ready to work: prompts in, text and scores out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.generation import (
    Answer,
    Generation,
    GenerationStream,
    generate,
    generate_side_by_side,
)
from gemcore.lookup import PromptLookup
from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.priors import GivenPrior, Prior, Priors, TextReader, each_token
from gemcore.routes import Routes, check_experts, token_pieces
from gemcore.runtime.kv_cache import KVCache
from gemcore.scoring import Forward, Pair, Score, common_length, score_pairs
from gemcore.text.sampling import Sampler, SamplingSettings
from gemcore.text.streaming import TextStream

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.perplexity import Perplexity
    from gemcore.runtime.executor import Executor

PREFILL_CHUNK = 128
"""Tokens in one pass: longer prompts are cut, which bounds memory and changes no bit of the result."""

MOST_DRAFTED = 64
"""The most tokens that prompt lookup guesses at a time."""


@attrs.frozen
class EncodedPrompt:
    """A prompt as the token ids that `Session.encode_prompt` gave for it; nothing is put around it."""

    tokens: tuple[int, ...]


PairKind = TypeVar("PairKind", bound=Pair)

Prompt = str | Sequence[Mapping[str, str]] | EncodedPrompt
"""A text, the messages of a chat, or either one as tokens."""


class Session:
    """A compiled model with its tokenizer and its cache. Not for use by several threads at once.

    Open one with `gemcore.open_session` or `gemcore.load`.
    """

    def __init__(
        self, bundle: Bundle, executor: Executor, *, context_length: int | None = None
    ) -> None:
        self.bundle = bundle
        self.config = bundle.manifest.config
        self.tokenizer = bundle.tokenizer()
        self._template = bundle.chat_template()
        model_limit = self.config.context_length
        self.context_length = min(context_length or model_limit, model_limit)
        self._executor = executor
        self._cache = KVCache(self.config, scheme=self.bundle.manifest.kv_cache)
        self._cached: list[int] = []
        self._prior: Prior | None = None
        self._second_cache: KVCache | None = None
        encoder = bundle.encoder_tokenizer()
        self._reader = (
            None if encoder is None else TextReader(tokenizer=self.tokenizer, encoder=encoder)
        )

    # Text in, text out

    def generate(self, prompt: Prompt, **options: Any) -> Generation:
        """Answer a prompt; the options are those of `stream`."""
        stream = self.stream(prompt, **options)
        for _ in stream:
            pass
        assert stream.result is not None
        return stream.result

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        sampling: SamplingSettings | None = None,
        stop: Sequence[str] = (),
        system: str | None = None,
        chat: bool = True,
        prompt_lookup: int = 0,
        prior: GivenPrior | None = None,
    ) -> GenerationStream:
        """Answer a prompt, piece by piece.

        Args:
            prompt: a text, or chat messages with `role` and `content`.
            max_tokens: the most tokens to generate.
            sampling: how tokens are chosen; by default the most likely one.
            stop: texts that end the answer and are not part of it.
            system: the system message of a chat.
            chat: put the prompt into the model's chat template; otherwise it is continued as it is.
            prompt_lookup: the most tokens to guess at a time from what the text has said before, and
                to check in one pass: faster where answers repeat the prompt, and the very same text.
            prior: of a routed model's experts, by name or in their order, where the caller knows better
                than the model's own network.

        Raises:
            UsageError: the prompt is empty or too long for the context, the model has no template, or
                there are no such experts.
        """
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {max_tokens}")
        if not 0 <= prompt_lookup <= MOST_DRAFTED:
            raise UsageError(
                f"prompt_lookup must be from 0 to {MOST_DRAFTED} tokens, not {prompt_lookup}"
            )
        tokens = self.encode_prompt(prompt, system=system, chat=chat)
        sampler = Sampler(sampling or SamplingSettings())
        lookup = PromptLookup(prompt_lookup) if prompt_lookup else None
        given = None if prior is None else self.prior_of(tokens, prior)

        def pieces() -> Iterator[str | Generation]:
            answer = self._answer(tokens, max_tokens, sampler, tuple(stop))
            # Only now, for others may have been answered since; and the time counts.
            self._use_prior(self.prior_of(tokens) if given is None else given)
            logits, answer.cached = self._prefill(tokens)
            yield from generate(answer, logits, self._feed_rows, self.forget, lookup)

        return GenerationStream(pieces())

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 256,
        sampling: SamplingSettings | None = None,
        stop: Sequence[str] = (),
        system: str | None = None,
        chat: bool = True,
        at_once: int = 8,
    ) -> list[Generation]:
        """Answer several prompts side by side, `at_once` in the same passes, as far as they fit.

        Each answer is the one that `generate` gives to its prompt alone; the session's own text stays
        in its cache. With a seed, each answer starts from it. The other arguments are those of
        `stream`.
        """
        if max_tokens < 1 or at_once < 1:
            raise UsageError(
                f"max_tokens and at_once must be at least 1, not {max_tokens} and {at_once}"
            )
        tokens = [self.encode_prompt(prompt, system=system, chat=chat) for prompt in prompts]
        if not tokens:
            return []
        settings = sampling or SamplingSettings()
        if self._priors().network:
            # Each prompt has a prior of its own, and a pass of `generate_side_by_side` has one for all.
            return [
                self.fork().generate(
                    EncodedPrompt(tuple(ids)), max_tokens=max_tokens, sampling=settings, stop=stop
                )
                for ids in tokens
            ]
        answers = [self._answer(ids, max_tokens, Sampler(settings), tuple(stop)) for ids in tokens]
        lane = min(max(map(len, tokens)) + max_tokens, self.context_length)
        lanes = min(at_once, len(answers), max(1, self.config.context_length // lane))
        return generate_side_by_side(answers, self.passes_aside(lanes * lane), lanes, lane)

    def encode_prompt(
        self, prompt: Prompt, *, system: str | None = None, chat: bool = True
    ) -> list[int]:
        """Tokens of a prompt as `stream` gives them to the model."""
        if isinstance(prompt, EncodedPrompt):
            return self._fitting(list(prompt.tokens))
        if isinstance(prompt, str):
            if not prompt.strip():
                raise UsageError("the prompt is empty: write something to answer")
            if not chat:
                if system is not None:
                    raise UsageError("a system message needs the chat template: drop --no-chat")
                return self._fitting(self.tokenizer.encode_prompt(prompt))
            messages = [{"role": "user", "content": prompt}]
        else:
            messages = [dict(message) for message in prompt]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return self._fitting(self._template.encode(self.tokenizer, messages))

    def _fitting(self, tokens: list[int]) -> list[int]:
        if not tokens:
            raise UsageError("the prompt is empty: write something to answer")
        if len(tokens) >= self.context_length:
            raise UsageError(
                f"the prompt has {len(tokens)} tokens, but the context holds "
                f"{self.context_length} and the answer needs room too: shorten it"
            )
        return tokens

    def _answer(
        self, tokens: list[int], max_tokens: int, sampler: Sampler, stop: tuple[str, ...]
    ) -> Answer:
        return Answer(
            prompt=tokens,
            max_tokens=max_tokens,
            context_length=self.context_length,
            sampler=sampler,
            shown=TextStream(self.tokenizer, stop),
            ends=frozenset(self.tokenizer.stop_token_ids),
        )

    def _feed_rows(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        return self._run(tokens, every=True)

    # Tokens in, logits out

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token of a text: float32 `[tokens, vocabulary]`."""
        self._check_ids(tokens)
        self.forget()
        self._use_prior(self.prior_of(tokens))
        parts = [
            self._run(tokens[start : start + PREFILL_CHUNK], every=True)
            for start in range(0, len(tokens), PREFILL_CHUNK)
        ]
        return np.concatenate(parts)

    def score(self, prefix: str, continuations: Sequence[str]) -> list[Score]:
        """How likely each continuation is right after `prefix`, which is read only once.

        The continuation is tokenized together with the prefix, as it would be in a text, and shares
        with it as many tokens as the two have in common.
        """
        return self.score_batch([(prefix, continuations)])[0]

    def score_batch(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[list[Score]]:
        """`score` of several prefixes with their continuations, many of them in one pass."""
        pairs = [self._pair(prefix, text) for prefix, texts in requests for text in texts]
        scores = iter(self.score_tokens(pairs))
        return [[next(scores) for _ in texts] for _, texts in requests]

    def score_tokens(self, pairs: Sequence[Pair]) -> list[Score]:
        """How likely each continuation is after its context, both as token ids.

        Neighbours that begin alike share the work of what they have in common, so put the
        continuations of one context next to each other. The session's own text stays in its cache.
        """
        for context, continuation in pairs:
            self._check_ids(context)
            self._check_ids(continuation)
        scores: list[Score] = []
        for prior, group in self.groups_by_prior(pairs):
            scores += score_pairs(group, self.passes_aside(prior=prior), self.context_length)
        return scores

    def groups_by_prior(
        self, pairs: Sequence[PairKind]
    ) -> Iterator[tuple[Prior | None, Sequence[PairKind]]]:
        """Neighbours that may be read in the same passes, with the prior that their contexts have."""
        if not self._priors().network:
            yield self.prior_of(()), list(pairs)
            return
        for context, group in groupby(pairs, key=lambda pair: tuple(pair[0])):
            yield self.prior_of(context), list(group)

    # Experts

    def prior_of(self, tokens: Sequence[int], given: GivenPrior | None = None) -> Prior | None:
        """The prior over the experts `[experts]` for a text, or `given`, checked; None without experts."""
        return self._priors().of(tokens, given)

    def routes(self, tokens: Sequence[int], prior: GivenPrior | None = None) -> Routes:
        """Which experts work for which token of a text; the session's own text stays in its cache.

        Args:
            tokens: the text.
            prior: of its experts; by default what the model's own network says of this text, so give that
                of the prompt where the text is a prompt with its answer.

        Raises:
            UsageError: the model has no experts, or the text or the prior does not fit it.
        """
        check_experts(self.bundle.manifest)
        self._check_ids(tokens)
        cache = self._aside()
        cache.reserve(len(tokens))
        used = self.prior_of(tokens, prior)
        assert used is not None
        placement = _in_one_text(0, len(tokens))
        ids, each = np.array(tokens, np.int32), np.tile(used, (len(tokens), 1))
        parts = []
        for start in range(0, len(tokens), PREFILL_CHUNK):
            part = slice(start, start + PREFILL_CHUNK)
            # Copied: what the executor gives may lie in memory that the next pass uses.
            said = self._executor.routes(ids[part], placement[part], each[part], cache)
            parts.append(said.mean(axis=0))
        return Routes(
            token_ids=tuple(tokens),
            pieces=token_pieces(self.tokenizer, tokens),
            experts=self.bundle.manifest.experts,
            weights=np.concatenate(parts),
            prior=used,
        )

    def _priors(self) -> Priors:
        manifest = self.bundle.manifest
        return Priors(
            experts=manifest.experts,
            longest=manifest.prior_tokens,
            executor=self._executor,
            cache=self._aside(),
            reader=self._reader,
        )

    def _use_prior(self, prior: Prior | None) -> None:
        """What was read with another prior is of no use: it would have been read otherwise."""
        if prior is not None and not np.array_equal(prior, self._prior):  # type: ignore[arg-type]
            self.forget()
        self._prior = prior

    def _pair(self, prefix: str, text: str) -> Pair:
        if not text:
            raise UsageError("a continuation is empty: there is nothing to score")
        shared, whole = (self.tokenizer.encode_prompt(part) for part in (prefix, prefix + text))
        # At least one token must be read before the first that is scored.
        begin = max(1, common_length(shared, whole))
        if begin >= len(whole):
            raise UsageError(f"the continuation {text!r} has no token of its own to score")
        return whole[:begin], whole[begin:]

    def perplexity(
        self, texts: str | Sequence[str], *, window: int = 1024, stride: int = 512
    ) -> Perplexity:
        """Perplexity and bits per byte of one or more texts, read in overlapping windows.

        Each token is scored once, with at least `window - stride` tokens before it where there are
        that many (the strided evaluation of the transformers documentation).
        """
        from gemcore.perplexity import measure

        return measure(texts, self.tokenizer, self.logits, window=window, stride=stride)

    def _prefill(self, tokens: list[int]) -> tuple[npt.NDArray[np.float32], int]:
        """Logits after the last token, and how many tokens were in the cache already."""
        self._check_ids(tokens)
        # The last token is always read again: its logits are wanted.
        cached = min(common_length(self._cached, tokens), len(tokens) - 1)
        self.forget(cached)
        return self.feed(tokens[cached:]), cached

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the text in the cache by `tokens`: logits after the last, `[vocabulary]`."""
        self._check_ids(tokens)
        # The whole at once: the cache would be copied whenever it grows. Untouched, it takes no memory.
        self._cache.reserve(len(self._cached) + len(tokens))
        for start in range(0, len(tokens), PREFILL_CHUNK):
            logits = self._run(tokens[start : start + PREFILL_CHUNK])
        last: npt.NDArray[np.float32] = logits[-1]
        return last

    def _run(self, tokens: Sequence[int], *, every: bool = False) -> npt.NDArray[np.float32]:
        """One pass that continues the cached text: logits of the last token, or of every one."""
        count, start = len(tokens), len(self._cached)
        self._cache.reserve(start + count)
        placement = _in_one_text(start, count)
        rows = np.arange(count, dtype=np.int32) if every else np.array([count - 1], np.int32)
        ids = np.array(tokens, np.int32)
        each = each_token(self._prior, self.bundle.manifest.experts, count)
        logits = self._executor.forward(ids, placement, rows, self._cache, each)
        self._cached.extend(tokens)
        return logits

    def passes_aside(self, slots: int = 0, prior: Prior | None = None) -> Forward:
        """Passes in a cache of their own, which leave the session's text as it is.

        It holds `slots` positions at first, and as many as are written. All tokens of a routed model have
        the same `prior`; by default one that says nothing.
        """
        cache = self._aside()
        cache.reserve(slots)
        experts = self.bundle.manifest.experts

        def forward(
            tokens: npt.NDArray[np.int32],
            placement: npt.NDArray[np.int32],
            rows: npt.NDArray[np.int32],
        ) -> npt.NDArray[np.float32]:
            cache.reserve(int(placement[:, 1].max()) + 1)
            each = each_token(prior, experts, len(tokens))
            return self._executor.forward(tokens, placement, rows, cache, each)

        return forward

    def _aside(self) -> KVCache:
        if self._second_cache is None:
            self._second_cache = KVCache(self.config, scheme=self.bundle.manifest.kv_cache)
        return self._second_cache

    def fork(self) -> Session:
        """Another session that continues the same text: model and weights shared, the cache copied.

        The two change nothing of each other. Not for use by several threads at once either.
        """
        other = copy.copy(self)
        other._cache = self._cache.copy(len(self._cached))
        other._cached = list(self._cached)
        other._second_cache = None
        return other

    def forget(self, keep: int = 0) -> None:
        """Drop the text in the cache after its first `keep` tokens."""
        del self._cached[keep:]

    def _check_ids(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise UsageError("there are no tokens to read")
        lowest, highest = min(tokens), max(tokens)
        if lowest < 0 or highest >= self.config.vocabulary_size:
            wrong = lowest if lowest < 0 else highest
            raise UsageError(
                f"token id {wrong} is outside the vocabulary of {self.config.vocabulary_size}"
            )


def _in_one_text(start: int, count: int) -> npt.NDArray[np.int32]:
    """Placement of `count` tokens of one text that continues at position `start`: `[count, 5]`."""
    placement = np.zeros((count, PLACEMENT_FIELDS), np.int32)
    placement[:, :2] = np.arange(start, start + count, dtype=np.int32)[:, None]
    return placement
