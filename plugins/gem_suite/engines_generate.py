"""Answers side by side, their reference scored on the way, and what all prompts begin with read once.

As `gemcore.generation.generate_side_by_side`, with two additions that save most of the work where
prompts are long and answers short: a prefix that all prompts share, and the log-likelihood of a
reference from the same reading of the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.perplexity import log_likelihoods
from gemcore.scoring import PASS_ROWS, PASS_TOKENS, common_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gemcore.generation import Answer
    from gemcore.scoring import Forward

    Floats = npt.NDArray[np.float32]

AT_ONCE = 16
"""Answers that grow in the same passes."""


@attrs.define(eq=False)
class _Lane:
    """A stretch of the cache in which one answer at a time grows.

    Attributes:
        start: its first slot.
        number: of the answer.
        reference: its ids; empty where none is to be scored.
        waiting: tokens that are to be read next.
        written: tokens of the text that have been read, the shared prefix included.
        targets: what is asked after each of the `waiting` tokens; None: nothing is.
        after_prompt: logits after the prompt, while the reference is read.
    """

    start: int
    number: int
    answer: Answer
    reference: tuple[int, ...]
    waiting: list[int]
    written: int
    targets: list[int | None] = attrs.Factory(list)
    after_prompt: Floats | None = None


def answer_side_by_side(
    answers: Sequence[Answer],
    references: Sequence[tuple[int, ...]],
    forward: Forward,
    slots: int,
) -> list[float]:
    """Finish answers, `AT_ONCE` of them at a time, and score their references.

    Args:
        answers: as yet without a token; each gets the tokens that it would get alone.
        references: ids of what should follow each prompt; empty where that is not asked.
        forward: runs one pass; see `gemcore.scoring.Forward`.
        slots: the most cache positions that `forward` has; every prompt with its reference, or with
            its longest answer, must fit.

    Returns:
        The log-likelihood of each reference; 0 where there is none.
    """
    shared = _shared_length([answer.prompt for answer in answers])
    scores = [0.0] * len(answers)
    if not answers:
        return scores
    _read_prefix(answers[0].prompt[:shared], forward)
    room = max(
        len(answer.prompt) - shared + max(answer.max_tokens, len(reference))
        for answer, reference in zip(answers, references, strict=True)
    )
    room = min(room, slots - shared)
    lanes = max(1, min(AT_ONCE, len(answers), (slots - shared) // room))
    free = [shared + lane * room for lane in range(lanes)]
    waiting = list(range(len(answers)))[::-1]
    active: list[_Lane] = []
    while waiting or active:
        while waiting and free:
            number = waiting.pop()
            prompt = answers[number].prompt
            lane = _Lane(
                free.pop(), number, answers[number], references[number], prompt[shared:], shared
            )
            lane.targets = [None] * (len(lane.waiting) - 1) + list(lane.reference[:1])
            active.append(lane)
        for lane, target, last, logits in _advance(active, shared, forward):
            if target is not None:
                scores[lane.number] += _log_likelihood(logits, target)
            if last:
                _go_on(lane, logits)
            if lane.answer.reason is not None:
                active.remove(lane)
                free.append(lane.start)
    return scores


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; each keeps at least one of its own."""
    if len(prompts) < 2:
        return 0
    return min(common_length(prompts[0], prompt[:-1]) for prompt in prompts)


def _read_prefix(tokens: Sequence[int], forward: Forward) -> None:
    for begin in range(0, len(tokens), PASS_TOKENS):
        part = tokens[begin : begin + PASS_TOKENS]
        placement = [(p, p, 0, 0, 0) for p in range(begin, begin + len(part))]
        forward(
            np.array(part, np.int32),
            np.array(placement, np.int32),
            np.array([len(part) - 1], np.int32),
        )


def _go_on(lane: _Lane, logits: Floats) -> None:
    """What a lane reads next, once everything that waited has been read."""
    if lane.written == len(lane.answer.prompt) and len(lane.reference) > 1:
        # First the reference; then the answer is written over it.
        lane.after_prompt = logits
        lane.waiting = list(lane.reference[:-1])
        lane.targets = list(lane.reference[1:])
        lane.reference = ()
        return
    if lane.after_prompt is not None:
        logits, lane.after_prompt = lane.after_prompt, None
        lane.written = len(lane.answer.prompt)
    lane.waiting, lane.targets = [lane.answer.take(logits)], [None]
    lane.reference = ()


def _advance(
    active: Sequence[_Lane], shared: int, forward: Forward
) -> list[tuple[_Lane, int | None, bool, Floats]]:
    """One pass over tokens that wait.

    Returns:
        Wherever a target is asked, or a lane has read all that waited: the lane, the target, whether
        all was read, and the logits.
    """
    tokens: list[int] = []
    placement: list[tuple[int, ...]] = []
    rows: list[int] = []
    asked: list[tuple[_Lane, int | None, bool]] = []
    for lane in active:
        taken = 0
        for token, target in zip(lane.waiting, _padded(lane), strict=True):
            last = taken + 1 == len(lane.waiting)
            wanted = target is not None or last
            if len(tokens) == PASS_TOKENS or (wanted and len(rows) == PASS_ROWS):
                break
            position = lane.written + taken
            slot = lane.start + position - shared
            placement.append((position, slot, 0, shared, lane.start))
            if wanted:
                rows.append(len(tokens))
                asked.append((lane, target, last))
            tokens.append(token)
            taken += 1
        lane.written += taken
        del lane.waiting[:taken], lane.targets[:taken]
    logits = forward(
        np.array(tokens, np.int32),
        np.array(placement, np.int32).reshape(-1, PLACEMENT_FIELDS),
        np.array(rows or [len(tokens) - 1], np.int32),
    )
    return [(*question, row) for question, row in zip(asked, logits, strict=False)]


def _padded(lane: _Lane) -> list[int | None]:
    return lane.targets + [None] * (len(lane.waiting) - len(lane.targets))


def _log_likelihood(logits: Floats, target: int) -> float:
    return float(log_likelihoods(logits[None], np.array([target]))[0])
