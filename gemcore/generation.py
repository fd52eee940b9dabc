"""Answers as they grow: one at a time with drafts, or many side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.lookup import PromptLookup
from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.scoring import PASS_TOKENS, Forward
from gemcore.text.sampling import Sampler
from gemcore.text.streaming import TextStream


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
        drafted_tokens: how many tokens prompt lookup guessed.
        accepted_tokens: how many of the guesses were right.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    finish_reason: str
    ttft: float
    decode_seconds: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed, the first token left out; None for fewer than two tokens."""
        count = len(self.token_ids) - 1
        return count / self.decode_seconds if count > 0 and self.decode_seconds > 0 else None


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


@attrs.define(kw_only=True)
class Answer:
    """One answer in the making: chooses tokens, shows text, knows when to stop.

    Attributes:
        prompt: tokens of the prompt.
        reason: why the answer has ended; None while it goes on.
    """

    prompt: list[int]
    max_tokens: int
    context_length: int
    sampler: Sampler
    shown: TextStream
    ends: frozenset[int]
    generated: list[int] = attrs.Factory(list)
    text: list[str] = attrs.Factory(list)
    reason: str | None = None
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    began: float = attrs.Factory(time.perf_counter)
    first: float | None = None
    last: float = 0.0

    @property
    def room(self) -> int:
        """How many tokens may still come."""
        length = len(self.generated)
        return min(self.max_tokens - length, self.context_length - len(self.prompt) - length)

    def take(self, logits: npt.NDArray[np.float32]) -> int:
        """Choose the next token, from logits `[vocabulary]`, and add what can be shown to `text`."""
        recent = [*self.prompt, *self.generated] if self.sampler.looks_back else ()
        token = self.sampler.sample(logits, recent)
        self.last = time.perf_counter()
        self.first = self.first or self.last
        if token in self.ends:
            self.reason = "stop"
        else:
            self.generated.append(token)
            self.text.append(self.shown.push(token))
            if self.shown.stopped:
                self.reason = "stop"
            elif self.room == 0:
                self.reason = "length" if len(self.generated) == self.max_tokens else "context"
        if self.reason is not None:
            self.text.append(self.shown.finish())
        return token

    def result(self) -> Generation:
        """The finished answer."""
        assert self.reason is not None
        assert self.first is not None
        return Generation(
            text="".join(self.text),
            token_ids=tuple(self.generated),
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached,
            finish_reason=self.reason,
            ttft=self.first - self.began,
            decode_seconds=self.last - self.first,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
        )


def generate(
    answer: Answer,
    logits: npt.NDArray[np.float32],
    read: Callable[[list[int]], npt.NDArray[np.float32]],
    forget: Callable[[int], None],
    lookup: PromptLookup | None,
) -> Iterator[str | Generation]:
    """Pieces of an answer, and at last the whole of it.

    Each token is chosen from the logits that it would have without drafts, so drafts change the
    speed alone: with any sampler, and to the bit (speculative decoding, arXiv 2211.17192, where the
    draft is certain of itself).

    Args:
        answer: as yet without a token.
        logits: after the prompt, `[vocabulary]`.
        read: continues the text in the cache by some tokens: logits after each, `[tokens, vocabulary]`.
        forget: drops what lies in the cache after so many tokens.
        lookup: drafts tokens; None for none.
    """
    rows, draft = logits[None], list[int]()
    if lookup is not None:
        lookup.extend(answer.prompt)
    while True:
        for place, row in enumerate(rows):
            shown = len(answer.text)
            token = answer.take(row)
            if lookup is not None:
                lookup.extend([token])
            yield "".join(answer.text[shown:])
            if answer.reason is not None or place == len(draft) or draft[place] != token:
                break
            answer.accepted += 1
        if answer.reason is not None:
            break
        if draft:
            # All but the newest token have been read, and guesses that were wrong.
            forget(len(answer.prompt) + len(answer.generated) - 1)
        draft = lookup.draft()[: answer.room - 1] if lookup is not None else []
        answer.drafted += len(draft)
        rows = read([token, *draft])
    forget(len(answer.prompt) + len(answer.generated))
    yield answer.result()


@attrs.define
class _Lane:
    """A stretch of the cache in which one answer at a time grows."""

    start: int
    answer: Answer
    number: int
    waiting: list[int]
    written: int = 0


def generate_side_by_side(
    answers: Sequence[Answer], forward: Forward, lanes: int, lane_tokens: int
) -> list[Generation]:
    """Finish answers, `lanes` of them at a time in the same passes; a free lane takes the next.

    Each has the same tokens as if it were alone. `forward` runs a pass over `lanes * lane_tokens`
    cache slots; no answer with its prompt may have more than `lane_tokens`.
    """
    waiting = list(enumerate(answers))[::-1]
    active: list[_Lane] = []
    free = [lane * lane_tokens for lane in range(lanes)]
    while waiting or active:
        while waiting and free:
            number, answer = waiting.pop()
            active.append(_Lane(free.pop(), answer, number, list(answer.prompt)))
        for lane, logits in _advance(active, forward):
            lane.waiting = [lane.answer.take(logits)]
            if lane.answer.reason is not None:
                active.remove(lane)
                free.append(lane.start)
    return [answer.result() for answer in answers]


def _advance(active: list[_Lane], forward: Forward) -> list[tuple[_Lane, npt.NDArray[np.float32]]]:
    """One pass over tokens that wait: the lanes that have read all of theirs, with their logits."""
    tokens: list[int] = []
    placement: list[tuple[int, ...]] = []
    ready: list[_Lane] = []
    rows: list[int] = []
    for lane in active:
        count = min(len(lane.waiting), PASS_TOKENS - len(tokens))
        positions = range(lane.written, lane.written + count)
        tokens += lane.waiting[:count]
        placement += [(p, lane.start + p, 0, 0, lane.start) for p in positions]
        lane.written += count
        del lane.waiting[:count]
        if count and not lane.waiting:
            ready.append(lane)
            rows.append(len(tokens) - 1)
    picked = rows or [len(tokens) - 1]
    logits = forward(
        np.array(tokens, np.int32),
        np.array(placement, np.int32).reshape(-1, PLACEMENT_FIELDS),
        np.array(picked, np.int32),
    )
    return list(zip(ready, logits, strict=False)) if rows else []
