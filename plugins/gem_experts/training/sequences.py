"""Texts as token sequences, and sequences as passes: several texts side by side, each for itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from gem_suite.engines_text import encode_pair, first_token, fit

if TYPE_CHECKING:
    from gem_experts.training.data import Example
    from gemcore.text.tokenizer import Tokenizer

PROMPT_WEIGHT = 0.3
"""Weight of a prompt's tokens in the loss, where those of answers and plain texts have 1.

An answer is a few tokens after a hundred of a prompt. With a weight of 1 the answer would hardly count;
with 0 nothing would be learned from the prompt, which is most of the domain's language that there is.
"""

_OPEN_BINS = 16
_SHORTEST = 2


@attrs.frozen(kw_only=True, eq=False)
class TokenText:
    """A text to learn.

    Attributes:
        tokens: int32 `[n + 1]`: `n` tokens are read, and each one's follower is foreseen.
        weights: float32 `[n]`: of the followers in the loss.
        bytes: of the text that is foreseen, in UTF-8.
    """

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    bytes: int = 0

    @property
    def length(self) -> int:
        """How many tokens are read."""
        return self.tokens.size - 1


@attrs.frozen(kw_only=True, eq=False)
class Pass:
    """Texts that the model reads together.

    Attributes:
        tokens: int32 `[tokens]`.
        placement: int32 `[tokens, 5]`, as `gemcore.models.ops` says; each text starts anew.
        rows: int64 `[rows]`: the tokens whose followers count.
        targets: int64 `[rows]`: those followers.
        weights: float32 `[rows]`.
        texts: int64 `[rows]`: the number of the text, from 0.
        bytes: of what is foreseen.
    """

    tokens: npt.NDArray[np.int32]
    placement: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    texts: npt.NDArray[np.int64]
    bytes: int


def encode_example(
    tokenizer: Tokenizer, example: Example, longest: int, prompt_weight: float = PROMPT_WEIGHT
) -> list[TokenText]:
    """A text in the tokens in which benchmarks score it.

    Of a question that is longer than `longest` the beginning is left out, and its answer's end if need
    be; a plain text becomes several sequences, which are read apart.
    """
    if example.is_text:
        return encode_text(tokenizer, example.answer, longest)
    pair = encode_pair(tokenizer, example.prompt, example.answer)
    if not pair[1]:
        return []
    if len(pair[1]) > longest:
        pair = pair[0], pair[1][:longest]
    (context, answer), _ = fit(pair, longest)
    weights = np.full(len(context) + len(answer) - 1, prompt_weight, np.float32)
    weights[len(context) - 1 :] = 1
    size = len((example.prompt + example.answer).encode())
    return [TokenText(tokens=np.array([*context, *answer], np.int32), weights=weights, bytes=size)]


def encode_text(tokenizer: Tokenizer, text: str, longest: int) -> list[TokenText]:
    """A plain text after the token that begins texts, in pieces of at most `longest` tokens.

    Each piece after the first begins with the last token of the one before, so that every token is
    foreseen once; `bytes` of a piece are its share of the text's, by tokens.
    """
    ids = np.array([first_token(tokenizer), *tokenizer.encode(text, special=False)], np.int32)
    size, count = len(text.encode()), ids.size - 1
    edges = [*range(0, count, longest), count]
    return [
        TokenText(
            tokens=ids[start : end + 1],
            weights=np.ones(end - start, np.float32),
            bytes=size * end // count - size * start // count,
        )
        for start, end in pairwise(edges)
    ]


def pack(sequences: Iterable[TokenText], batch_tokens: int) -> list[list[TokenText]]:
    """Put sequences into passes of at most `batch_tokens` tokens, each where it first fits.

    So many passes stay open at a time; the order of the passes is that of their first sequences.
    """
    passes: list[list[TokenText]] = []
    room: dict[int, int] = {}
    for sequence in sequences:
        place = next((n for n, free in room.items() if free >= sequence.length), None)
        if place is None:
            place = len(passes)
            passes.append([])
            room[place] = batch_tokens
            if len(room) > _OPEN_BINS:
                del room[min(room, key=lambda number: room[number])]
        passes[place].append(sequence)
        room[place] = room.get(place, batch_tokens) - sequence.length
    return passes


def make_pass(sequences: Sequence[TokenText]) -> Pass:
    """Lay sequences side by side; only tokens with a weight are foreseen."""
    tokens, placement, rows, targets, weights, texts = [], [], [], [], [], []
    start = 0
    for number, sequence in enumerate(sequences):
        length = sequence.length
        places = np.arange(length, dtype=np.int32)
        nothing = np.zeros_like(places)
        own = [places, places + start, nothing, nothing, nothing + start]
        counted = np.flatnonzero(sequence.weights)
        tokens.append(sequence.tokens[:-1])
        placement.append(np.stack(own, axis=1))
        rows.append(counted + start)
        targets.append(sequence.tokens[1:][counted].astype(np.int64))
        weights.append(sequence.weights[counted])
        texts.append(np.full(counted.size, number))
        start += length
    return Pass(
        tokens=np.concatenate(tokens),
        placement=np.concatenate(placement),
        rows=np.concatenate(rows),
        targets=np.concatenate(targets),
        weights=np.concatenate(weights),
        texts=np.concatenate(texts),
        bytes=sum(sequence.bytes for sequence in sequences),
    )


@attrs.frozen(kw_only=True, eq=False)
class Mixture:
    """An endless, repeatable order of passes over texts and questions.

    One epoch has every plain text once, and so many questions, drawn anew, that they are
    `1 - text_share` of the tokens; where there is only one of the two kinds, all of it.

    Attributes:
        texts, questions: what there is.
        batch_tokens: the most tokens of a pass.
        seed: of the order.
        text_share: share of the plain texts in the tokens.
    """

    texts: tuple[TokenText, ...]
    questions: tuple[TokenText, ...]
    batch_tokens: int
    seed: int
    text_share: float = 0.5

    def epoch(self, number: int) -> list[Pass]:
        """The passes of an epoch, in their order."""
        generator = np.random.default_rng((self.seed, number))
        questions = [self.questions[i] for i in generator.permutation(len(self.questions))]
        texts = list(self.texts)
        if texts and questions:
            if self.text_share == 0:
                texts = []
            else:
                size = round(sum(text.length for text in texts) * (1 / self.text_share - 1))
                read = np.cumsum([question.length for question in questions])
                questions = questions[: int(np.searchsorted(read, size, side="right"))]
        chosen = texts + questions
        order = generator.permutation(len(chosen))
        packed = pack((chosen[i] for i in order), self.batch_tokens)
        # The last passes are the emptiest: they must not all come last.
        return [make_pass(packed[i]) for i in generator.permutation(len(packed))]

    def passes(self, skip: int = 0) -> Iterator[Pass]:
        """Epoch after epoch, without the first `skip` passes."""
        number = 0
        while True:
            for made in self.epoch(number):
                if skip:
                    skip -= 1
                else:
                    yield made
            number += 1


def usable(sequences: Iterable[TokenText]) -> tuple[TokenText, ...]:
    """The sequences that have anything to foresee."""
    return tuple(found for found in sequences if found.tokens.size >= _SHORTEST)
