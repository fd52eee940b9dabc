"""Perplexity and bits per byte of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.text.tokenizer import Tokenizer

Logits = Callable[[Sequence[int]], npt.NDArray[np.float32]]
"""Token ids to float32 logits `[tokens, vocabulary]`."""


@attrs.frozen(kw_only=True)
class Perplexity:
    """How well a model foresees a text.

    Attributes:
        perplexity: e to the mean negative log-likelihood of a token.
        bits_per_byte: negative log2-likelihood of the whole text over its UTF-8 bytes.
        tokens: how many tokens were scored.
    """

    perplexity: float
    bits_per_byte: float
    tokens: int


def measure(
    text: str, tokenizer: Tokenizer, logits: Logits, *, window: int = 1024, stride: int = 512
) -> Perplexity:
    """Score every token of `text` but the first, each once, in overlapping windows.

    Raises UsageError for a text of fewer than two tokens or impossible windows.
    """
    if not 0 < stride <= window - 1:
        raise UsageError(f"stride ({stride}) must be from 1 to window - 1 ({window - 1})")
    tokens = tokenizer.encode_prompt(text)
    if len(tokens) < 2:
        raise UsageError(f"perplexity needs a text of at least 2 tokens, this one has {len(tokens)}")
    total = 0.0
    scored = 1
    for start in range(0, len(tokens), stride):
        piece = tokens[start : start + window]
        begin = scored - start
        if begin < len(piece):
            rows = logits(piece[:-1])[begin - 1 :]
            total -= float(log_likelihoods(rows, np.asarray(piece[begin:])).sum())
            scored = start + len(piece)
        if scored == len(tokens):
            break
    first = len(tokenizer.decode(tokens[:1]).encode())
    return Perplexity(
        perplexity=math.exp(total / (len(tokens) - 1)),
        bits_per_byte=total / math.log(2) / max(1, len(text.encode()) - first),
        tokens=len(tokens) - 1,
    )


def log_likelihoods(
    logits: npt.NDArray[np.float32], tokens: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Natural log-probability of each token: logits `[tokens, vocabulary]` and ids `[tokens]`."""
    largest = logits.max(axis=1, keepdims=True)
    totals = np.exp(logits - largest).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(logits, tokens[:, None], axis=1) - largest
    return chosen[:, 0].astype(np.float64) - np.log(totals)
