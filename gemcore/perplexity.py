"""Perplexity and bits per byte of texts."""

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
    texts: str | Sequence[str],
    tokenizer: Tokenizer,
    logits: Logits,
    *,
    window: int = 1024,
    stride: int = 512,
) -> Perplexity:
    """Score every token of each text but its first, each once, in overlapping windows.

    Several texts are read apart from each other; a text of one token has nothing to score. Raises
    UsageError when nothing can be scored, or for impossible windows.
    """
    if not 0 < stride < window:
        raise UsageError(f"stride ({stride}) must be from 1 to window - 1 ({window - 1})")
    loss, tokens, size = 0.0, 0, 0
    for text in [texts] if isinstance(texts, str) else texts:
        ids = tokenizer.encode_prompt(text)
        if len(ids) > 1:
            loss += _loss(ids, logits, window, stride)
            tokens += len(ids) - 1
            size += len(text.encode()) - len(tokenizer.decode(ids[:1]).encode())
    if tokens == 0:
        raise UsageError("perplexity needs a text of at least 2 tokens: there is nothing to score")
    return Perplexity(
        perplexity=math.exp(loss / tokens), bits_per_byte=loss / math.log(2) / size, tokens=tokens
    )


def _loss(tokens: Sequence[int], logits: Logits, window: int, stride: int) -> float:
    """Negative log-likelihood of all tokens but the first, in nats."""
    loss = 0.0
    scored = 1
    for start in range(0, len(tokens), stride):
        piece = tokens[start : start + window]
        begin = scored - start
        if begin < len(piece):
            rows = logits(piece[:-1])[begin - 1 :]
            loss -= float(log_likelihoods(rows, np.asarray(piece[begin:])).sum())
            scored = start + len(piece)
        if scored == len(tokens):
            break
    return loss


def log_likelihoods(
    logits: npt.NDArray[np.float32], tokens: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Natural log-probability of each token: logits `[tokens, vocabulary]` and ids `[tokens]`."""
    largest = logits.max(axis=1, keepdims=True)
    totals = np.exp(logits - largest).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(logits, tokens[:, None], axis=1) - largest
    result: npt.NDArray[np.float64] = chosen[:, 0].astype(np.float64) - np.log(totals)
    return result
