"""Windows and log-likelihoods of the comparison are those of `gem eval perplexity`."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from peer_comparison.likelihood import log_likelihood, windows

from gemcore.perplexity import measure

VOCABULARY = 13


class Digits:
    """A tokenizer of texts that are numbers already."""

    def encode_prompt(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


def logits(tokens):
    """Rows that depend on everything before them in the window."""
    table = np.random.default_rng(0).normal(size=(31, VOCABULARY)).astype(np.float32)
    return table[np.cumsum(tokens) % 31]


@given(
    texts=st.lists(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=70), min_size=1, max_size=3
    ),
    window=st.integers(2, 24),
    stride=st.integers(1, 23),
)
def test_perplexity_is_that_of_gem(texts, window, stride):
    stride = min(stride, window - 1)
    written = [" ".join(map(str, text)) for text in texts]
    expected = measure(written, Digits(), logits, window=window, stride=stride)
    pieces = [piece for text in texts for piece in windows(text, window, stride)]
    loss = -sum(
        log_likelihood(logits(p.tokens[:-1])[p.begin - 1 :], p.tokens[p.begin :]) for p in pieces
    )
    assert sum(piece.scored for piece in pieces) == expected.tokens
    assert math.isclose(math.exp(loss / expected.tokens), expected.perplexity, rel_tol=1e-9)


@given(length=st.integers(0, 60), window=st.integers(2, 24))
def test_windows_score_each_token_but_the_first_once(length, window):
    tokens = list(range(length))
    scored = [token for p in windows(tokens, window, window // 2) for token in p.tokens[p.begin :]]
    assert scored == tokens[1:]


def test_log_likelihood_is_that_of_torch():
    generator = np.random.default_rng(1)
    rows = generator.normal(scale=20, size=(9, 400)).astype(np.float32)
    tokens = generator.integers(0, 400, 9)
    expected = torch.log_softmax(torch.from_numpy(rows).double(), dim=1)[range(9), tokens].sum()
    assert math.isclose(log_likelihood(rows, tokens.tolist()), expected.item(), rel_tol=1e-6)
