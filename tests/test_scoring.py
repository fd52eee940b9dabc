"""Scoring in passes, against a model in a few lines that counts what each token can see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore import scoring
from gemcore.errors import UsageError
from gemcore.scoring import common_length, score_pairs

VOCABULARY = 7


def logits_of(text: list[int]) -> np.ndarray:
    """A row of logits that depends on every token of a text and on their order."""
    state = 1
    for token in text:
        state = (state * 31 + token + 1) % 10_007
    return np.random.default_rng(state).normal(size=VOCABULARY).astype(np.float32)


class Counter:
    """A model with a cache, which sees what the placement lets it see."""

    def __init__(self, most_tokens: int) -> None:
        self.cache: list[int | None] = [None] * most_tokens
        self.tokens: list[int] = []

    def __call__(self, tokens, placement, rows):
        self.tokens.append(len(tokens))
        for token, (_, slot, *_rest) in zip(tokens, placement, strict=True):
            self.cache[slot] = int(token)
        found = []
        for row in rows:
            position, slot, prefix_start, prefix_end, start = placement[row]
            seen = [*range(prefix_start, prefix_end), *range(start, slot + 1)]
            assert position == len(seen) - 1
            found.append(logits_of([self.cache[s] for s in seen]))
        return np.stack(found)


def alone(context: list[int], continuation: list[int]) -> tuple[float, bool]:
    text, total, greedy = list(context), 0.0, True
    for token in continuation:
        logits = logits_of(text).astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        greedy &= bool(logits.argmax() == token)
        text.append(token)
    return total, greedy


ids = st.integers(0, VOCABULARY - 1)
pairs = st.lists(
    st.tuples(
        st.lists(ids, min_size=1, max_size=12).flatmap(
            # Beginnings that are often shared.
            lambda rest: st.sampled_from([[], [1, 2, 3, 4, 5], [1, 2, 3, 6]]).map(
                lambda first: first + rest
            )
        ),
        st.lists(ids, min_size=1, max_size=6),
    ),
    max_size=12,
)


@given(pairs=pairs, tokens=st.integers(4, 40), rows=st.integers(1, 8))
def test_each_score_is_as_if_the_pair_were_alone(pairs, tokens, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "PASS_TOKENS", tokens)
        patch.setattr(scoring, "PASS_ROWS", rows)
        patch.setattr(scoring, "ROUND_TOKENS", 2 * tokens)
        model = Counter(24 + 2 * tokens)
        scores = score_pairs(pairs, model, 24 + 2 * tokens)
    assert len(scores) == len(pairs)
    for (context, continuation), score in zip(pairs, scores, strict=True):
        total, greedy = alone(context, continuation)
        assert score.log_likelihood == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert score.tokens == len(continuation)
        assert score.greedy == greedy
    assert all(count <= tokens for count in model.tokens)


def test_a_common_context_is_read_once():
    model = Counter(1000)
    context = [i % VOCABULARY for i in range(50)]
    score_pairs([(context, [i, 2, 3]) for i in range(4)], model, 1000)
    assert sum(model.tokens) == 50 + 4 * 2


def test_many_questions_fill_few_passes():
    model = Counter(1000)
    made = [([n, *[(n + i) % VOCABULARY for i in range(40)]], [1]) for n in range(VOCABULARY)]
    score_pairs(made, model, 1000)
    assert len(model.tokens) == 1


def test_what_cannot_be_scored_is_named():
    with pytest.raises(UsageError, match="must have at least one token each"):
        score_pairs([([], [1])], Counter(10), 10)
    with pytest.raises(UsageError, match="must have at least one token each"):
        score_pairs([([1], [])], Counter(10), 10)
    with pytest.raises(UsageError, match="have 12 tokens, but the context holds 10"):
        score_pairs([([1] * 9, [1, 2, 3])], Counter(10), 10)


@given(first=st.lists(ids), second=st.lists(ids))
def test_common_length(first, second):
    length = common_length(first, second)
    assert first[:length] == second[:length]
    assert first[length : length + 1] != second[length : length + 1] or length == len(first) == len(
        second
    )
