"""A model that is ready to work: prompts in, text and scores out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.runtime.kv_cache import KVCache
from gemcore.text.chat import ChatTemplate
from gemcore.text.sampling import Sampler, SamplingSettings
from gemcore.text.streaming import TextStream
from gemcore.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.perplexity import Perplexity
    from gemcore.runtime.executor import Executor

PREFILL_CHUNK = 512
"""Tokens in one pass: longer prompts are cut, which bounds memory and changes no bit of the result."""

Prompt = str | Sequence[Mapping[str, str]]
"""A text, or the messages of a chat."""


@attrs.frozen(kw_only=True)
class Generation:
    """What came of one prompt.

    Attributes:
        text: the generated text.
        token_ids: the generated tokens.
        prompt_tokens: tokens of the prompt.
        cached_tokens: how many of them were still in the cache from before.
        finish_reason: `stop` (the model, or a stop string, ended it), `length` (max_tokens) or
            `context` (the context is full).
        ttft: seconds from the call to the first token (time to first token).
        decode_seconds: seconds from the first token to the last.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    finish_reason: str
    ttft: float
    decode_seconds: float

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed, the first token left out; None for fewer than two tokens."""
        count = len(self.token_ids) - 1
        return count / self.decode_seconds if count > 0 and self.decode_seconds > 0 else None


@attrs.frozen(kw_only=True)
class Score:
    """How likely a text is after another.

    Attributes:
        log_likelihood: natural logarithm of the probability of all its tokens.
        tokens: how many tokens it has.
        greedy: every one of its tokens is the most likely one.
    """

    log_likelihood: float
    tokens: int
    greedy: bool


class GenerationStream(Iterator[str]):
    """Pieces of text as they come; `result` is there once the iteration has ended."""

    def __init__(self, pieces: Iterator[str | Generation]) -> None:
        self._pieces = pieces
        self.result: Generation | None = None

    def __next__(self) -> str:
        for piece in self._pieces:
            if isinstance(piece, Generation):
                self.result = piece
            elif piece:
                return piece
        raise StopIteration


class Session:
    """A compiled model with its tokenizer and its cache. Not for use by several threads at once.

    Open one with `gemcore.open_session` or `gemcore.load`.
    """

    def __init__(
        self, bundle: Bundle, executor: Executor, *, context_length: int | None = None
    ) -> None:
        self._text = bundle.text_data()
        self.bundle = bundle
        self.config = bundle.manifest.config
        self.tokenizer = Tokenizer.from_text_data(self._text)
        model_limit = self.config.context_length
        self.context_length = min(context_length or model_limit, model_limit)
        self._executor = executor
        self._cache = KVCache(self.config)
        self._cached: list[int] = []

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
    ) -> GenerationStream:
        """Answer a prompt, piece by piece.

        Args:
            prompt: a text, or chat messages with `role` and `content`.
            max_tokens: the most tokens to generate.
            sampling: how tokens are chosen; by default the most likely one.
            stop: texts that end the answer and are not part of it.
            system: the system message of a chat.
            chat: put the prompt into the model's chat template; otherwise it is continued as it is.

        Raises:
            UsageError: the prompt is empty or too long for the context, or the model has no template.
        """
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {max_tokens}")
        tokens = self.encode_prompt(prompt, system=system, chat=chat)
        sampler = Sampler(sampling or SamplingSettings())
        pieces = self._generate(tokens, max_tokens, sampler, tuple(stop))
        return GenerationStream(pieces)

    def encode_prompt(
        self, prompt: Prompt, *, system: str | None = None, chat: bool = True
    ) -> list[int]:
        """Tokens of a prompt as `stream` gives them to the model."""
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
        template = ChatTemplate.from_text_data(self._text)
        return self._fitting(template.encode(self.tokenizer, messages))

    def _fitting(self, tokens: list[int]) -> list[int]:
        if not tokens:
            raise UsageError("the prompt is empty: write something to answer")
        if len(tokens) >= self.context_length:
            raise UsageError(
                f"the prompt has {len(tokens)} tokens, but the context holds "
                f"{self.context_length} and the answer needs room too: shorten it"
            )
        return tokens

    def _generate(
        self, tokens: list[int], max_tokens: int, sampler: Sampler, stop: tuple[str, ...]
    ) -> Iterator[str | Generation]:
        began = time.perf_counter()
        shown = TextStream(self.tokenizer, stop)
        ends = frozenset(self.tokenizer.stop_token_ids)
        text: list[str] = []
        generated: list[int] = []
        logits, cached = self._prefill(tokens)
        first = None
        while True:
            token = sampler.sample(logits, [*tokens, *generated] if sampler.looks_back else ())
            now = time.perf_counter()
            first = first or now
            if token in ends:
                reason = "stop"
                break
            generated.append(token)
            piece = shown.push(token)
            text.append(piece)
            yield piece
            if shown.stopped:
                reason = "stop"
                break
            if len(generated) == max_tokens:
                reason = "length"
                break
            if len(tokens) + len(generated) >= self.context_length:
                reason = "context"
                break
            logits = self.feed([token])
        rest = shown.finish()
        text.append(rest)
        yield rest
        yield Generation(
            text="".join(text),
            token_ids=tuple(generated),
            prompt_tokens=len(tokens),
            cached_tokens=cached,
            finish_reason=reason,
            ttft=first - began,
            decode_seconds=now - first,
        )

    # Tokens in, logits out

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token of a text: float32 `[tokens, vocabulary]`."""
        self._check_ids(tokens)
        self.forget()
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
        shared = self.tokenizer.encode_prompt(prefix)
        wholes = [self.tokenizer.encode_prompt(prefix + text) for text in continuations]
        for text, whole in zip(continuations, wholes, strict=True):
            if not text:
                raise UsageError("a continuation is empty: there is nothing to score")
            self._fitting(whole)
        common = min([len(shared) - 1, *(_common(shared, whole) for whole in wholes)])
        # At least one token must be read before the first that is scored.
        common = max(0, min(common, *(len(whole) - 2 for whole in wholes)))
        scores = []
        for whole in wholes:
            begin = max(1, min(len(shared), _common(shared, whole)))
            self._read(whole[:common])
            logits = self._run(whole[common:-1], every=True)[begin - common - 1 :]
            scores.append(_score(logits, whole[begin:]))
        return scores

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
        cached = min(_common(self._cached, tokens), len(tokens) - 1)
        self.forget(cached)
        return self.feed(tokens[cached:]), cached

    def _read(self, tokens: Sequence[int]) -> None:
        """Bring the cache to hold exactly `tokens`."""
        kept = _common(self._cached, tokens)
        self.forget(kept)
        if kept < len(tokens):
            self.feed(tokens[kept:])

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the text in the cache by `tokens`: logits after the last, `[vocabulary]`."""
        self._check_ids(tokens)
        for start in range(0, len(tokens), PREFILL_CHUNK):
            logits = self._run(tokens[start : start + PREFILL_CHUNK])
        last: npt.NDArray[np.float32] = logits[-1]
        return last

    def _run(self, tokens: Sequence[int], *, every: bool = False) -> npt.NDArray[np.float32]:
        """One pass that continues the cached text: logits of the last token, or of every one."""
        count, start = len(tokens), len(self._cached)
        self._cache.reserve(start + count)
        placement = np.zeros((count, PLACEMENT_FIELDS), np.int32)
        placement[:, :2] = np.arange(start, start + count, dtype=np.int32)[:, None]
        rows = np.arange(count, dtype=np.int32) if every else np.array([count - 1], np.int32)
        ids = np.array(tokens, np.int32)
        logits = self._executor.forward(ids, placement, rows, self._cache)
        self._cached.extend(tokens)
        return logits

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


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = min(len(first), len(second))
    for i in range(length):
        if first[i] != second[i]:
            return i
    return length


def _score(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> Score:
    from gemcore.perplexity import log_likelihoods

    chosen = np.asarray(tokens)
    greedy = bool((logits.argmax(axis=1) == chosen).all())
    total = float(log_likelihoods(logits, chosen).sum())
    return Score(log_likelihood=total, tokens=len(chosen), greedy=greedy)
