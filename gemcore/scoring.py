"""How likely texts are after others: many of them in one pass, common beginnings read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.perplexity import log_likelihoods

PASS_TOKENS = 512
"""The most tokens of one pass."""

PASS_ROWS = 128
"""The most logits of one pass: each row is as wide as the vocabulary."""

ROUND_TOKENS = 2048
"""The most tokens that lie in the cache at a time, unless one text alone has more."""

Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a context, at least one, and of its continuation, at least one."""

Forward = Callable[
    [npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]], npt.NDArray[np.float32]
]
"""Token ids `[tokens]`, placement `[tokens, 5]` and rows `[rows]` to logits `[rows, vocabulary]`."""


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


@attrs.define
class _Group:
    """Pairs whose inputs share their first `shared` tokens, which are read once."""

    numbers: list[int]
    inputs: list[list[int]]
    shared: int

    @property
    def size(self) -> int:
        return self.shared + sum(len(tokens) - self.shared for tokens in self.inputs)


@attrs.define
class _Round:
    """Tokens that lie side by side in the cache, and what is asked of their logits.

    `asked` are (row, number of the pair, token that follows), in the order of the rows.
    """

    tokens: list[int] = attrs.Factory(list)
    placement: list[tuple[int, ...]] = attrs.Factory(list)
    asked: list[tuple[int, int, int]] = attrs.Factory(list)


def score_pairs(pairs: Sequence[Pair], forward: Forward, most_tokens: int) -> list[Score]:
    """Scores of continuations after their contexts, in the order of `pairs`.

    Neighbours in `pairs` that begin alike share the work of what they have in common. `forward` runs
    one pass over at most `most_tokens` cache slots; a pair of more tokens raises UsageError.
    """
    totals = np.zeros(len(pairs))
    greedy = np.ones(len(pairs), np.bool_)
    for asked in _rounds(pairs, most_tokens):
        for numbers, targets, logits in _passes(asked, forward):
            np.add.at(totals, numbers, log_likelihoods(logits, targets))
            greedy[numbers[logits.argmax(axis=1) != targets]] = False
    return [
        Score(
            log_likelihood=float(totals[number]),
            tokens=len(continuation),
            greedy=bool(greedy[number]),
        )
        for number, (_, continuation) in enumerate(pairs)
    ]


def _rounds(pairs: Sequence[Pair], most_tokens: int) -> Iterator[_Round]:
    """Groups put together as long as they fill no more than one pass."""
    current = _Round()
    for group in _groups(pairs, most_tokens):
        if current.tokens and len(current.tokens) + group.size > min(PASS_TOKENS, most_tokens):
            yield current
            current = _Round()
        _place(group, pairs, current)
    if current.tokens:
        yield current


def _groups(pairs: Sequence[Pair], most_tokens: int) -> Iterator[_Group]:
    """Neighbours that are read with fewer tokens together than apart."""
    group: _Group | None = None
    for number, (context, continuation) in enumerate(pairs):
        tokens = [*context, *continuation[:-1]]
        if not context or not continuation:
            raise UsageError("a context and its continuation must have at least one token each")
        if len(tokens) > most_tokens:
            raise UsageError(
                f"a context and its continuation have {len(tokens) + 1} tokens, but the context "
                f"holds {most_tokens}: shorten the text"
            )
        if group is not None:
            shared = min(group.shared, common_length(group.inputs[0], tokens))
            joined = _Group([*group.numbers, number], [*group.inputs, tokens], shared)
            if joined.size <= min(ROUND_TOKENS, most_tokens, group.size + len(tokens) - 1):
                group = joined
                continue
            yield group
        group = _Group([number], [tokens], len(tokens))
    if group is not None:
        yield group


def _place(group: _Group, pairs: Sequence[Pair], into: _Round) -> None:
    """Append a group's tokens: what is shared first, then the rest of each text behind it."""
    begin = len(into.tokens)
    shared = group.shared
    into.tokens += group.inputs[0][:shared]
    into.placement += [(p, begin + p, 0, 0, begin) for p in range(shared)]
    after: list[tuple[int, int, int]] = []
    for number, tokens in zip(group.numbers, group.inputs, strict=True):
        own = len(into.tokens)
        into.tokens += tokens[shared:]
        into.placement += [
            (p, own + p - shared, begin, begin + shared, own) for p in range(shared, len(tokens))
        ]
        context, continuation = pairs[number]
        for i, target in enumerate(continuation):
            place = len(context) - 1 + i
            row = begin + place if place < shared else own + place - shared
            after.append((row, number, target))
    into.asked += sorted(after)


def _passes(
    asked: _Round, forward: Forward
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Run a round; for each pass: numbers of the pairs, wanted tokens, and their logits."""
    tokens = np.array(asked.tokens, np.int32)
    placement = np.array(asked.placement, np.int32).reshape(-1, PLACEMENT_FIELDS)
    wanted = np.array(asked.asked, np.int64).reshape(-1, 3)
    start = 0
    while start < len(tokens):
        end = min(start + PASS_TOKENS, len(tokens))
        of_pass = wanted[(wanted[:, 0] >= start) & (wanted[:, 0] < end)]
        rows, places = np.unique(of_pass[:, 0], return_inverse=True)
        if len(rows) > PASS_ROWS:
            end = int(rows[PASS_ROWS])
            inside = of_pass[:, 0] < end
            of_pass, places, rows = of_pass[inside], places[inside], rows[:PASS_ROWS]
        # The last token stands in where nothing is asked: a pass has at least one row.
        picked = (rows - start) if len(rows) else np.array([end - start - 1])
        logits = forward(tokens[start:end], placement[start:end], picked.astype(np.int32))
        if len(rows):
            yield of_pass[:, 1], of_pass[:, 2], logits[places]
        start = end


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    length = min(len(first), len(second))
    for i in range(length):
        if first[i] != second[i]:
            return i
    return length
