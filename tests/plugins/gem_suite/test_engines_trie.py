"""Every beginning is read once, and the scores are those of a session, to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_suite import engines_trie
from gem_suite.engines import CompiledEngine
from gem_suite.engines_trie import score_trie
from gemcore.scoring import PASS_ROWS, PASS_TOKENS

IDS = st.lists(st.integers(3, 5), min_size=1, max_size=12).map(tuple)
PAIRS = st.lists(st.tuples(IDS, IDS), min_size=1, max_size=25, unique=True)


class Recorder:
    """Passes that say nothing, and how much they read."""

    def __init__(self, vocabulary=8):
        self.tokens = self.passes = self.most_slots = 0
        self.vocabulary = vocabulary

    def __call__(self, tokens, placement, rows):
        assert len(tokens) <= PASS_TOKENS
        assert len(rows) <= PASS_ROWS
        assert sorted(set(rows.tolist())) == rows.tolist()
        slots = placement[:, 1].tolist()
        assert len(set(slots)) == len(slots)
        self.tokens += len(tokens)
        self.passes += 1
        self.most_slots = max(self.most_slots, *slots)
        return np.zeros((len(rows), self.vocabulary), np.float32)


def distinct_beginnings(pairs):
    inputs = [(*context, *continuation[:-1]) for context, continuation in pairs]
    return {text[:length] for text in inputs for length in range(1, len(text) + 1)}


@settings(max_examples=25)
@given(pairs=PAIRS)
def test_scores_are_those_of_a_session_to_the_bit(tiny_bundle, pairs):
    from gemcore.api import open_session

    session = open_session(tiny_bundle.folder)
    engine = CompiledEngine(session)
    assert score_trie(
        pairs, engine.forward(), engine.slots, engine.usual_slots
    ) == session.score_tokens(pairs)


@given(pairs=PAIRS)
def test_little_is_read_twice(pairs):
    forward = Recorder()
    scores = score_trie(pairs, forward, 4096, 4096)
    once = len(distinct_beginnings(pairs))
    assert once <= forward.tokens <= (1 + 2 * engines_trie.REREAD) * once + 1
    for (_, continuation), score in zip(pairs, scores, strict=True):
        assert score.tokens == len(continuation)
        assert score.log_likelihood == pytest.approx(-len(continuation) * np.log(8))


@given(pairs=PAIRS, slots=st.integers(24, 60))
def test_no_more_slots_are_used_than_there_are(pairs, slots):
    forward = Recorder()
    scores = score_trie(pairs, forward, slots, slots)
    assert forward.most_slots < slots
    assert all(score.log_likelihood < 0 for score in scores)


def test_three_levels_are_read_in_few_passes():
    """A sentence, spans in it, and labels of two tokens for each span."""
    sentence = tuple(range(100))
    pairs = [
        ((*sentence, 200 + span, 300), (400 + label, 500))
        for span in range(20)
        for label in range(10)
    ]
    forward = Recorder(vocabulary=600)
    score_trie(pairs, forward, 4096, 4096)
    assert forward.tokens == 100 + 20 * (2 + 10)
    assert forward.passes <= 1 + 10


def test_a_long_wave_is_cut_into_passes():
    pairs = [((1, 2, 3), tuple(range(3, 3 + 700)))]
    forward = Recorder(vocabulary=800)
    (score,) = score_trie(pairs, forward, 4096, 4096)
    assert forward.tokens == 702
    assert forward.passes == -(-700 // PASS_ROWS)
    assert score.log_likelihood == pytest.approx(-700 * np.log(800))
