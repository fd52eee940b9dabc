"""Windows of a text, and how likely its tokens are: the same for every system.

The windows are those of `gem eval perplexity`: the strided evaluation of the transformers
documentation, in which each token but the first is scored once, with as much text before it as fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import numpy.typing as npt

WINDOW = 1024
"""Tokens that are read at once; windows start every half of it."""


@attrs.frozen
class Window:
    """A piece of a text.

    Attributes:
        tokens: what is read.
        begin: index in `tokens` of the first one that is scored; those after it are too.
    """

    tokens: tuple[int, ...]
    begin: int

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return len(self.tokens) - self.begin


def windows(tokens: Sequence[int], window: int, stride: int) -> Iterator[Window]:
    """Overlapping windows that score every token but the first, each once.

    >>> [(len(w.tokens), w.begin) for w in windows(range(10), window=6, stride=3)]
    [(6, 1), (6, 3), (4, 3)]
    """
    scored = 1
    for start in range(0, len(tokens), stride):
        if scored >= len(tokens):
            return
        piece = tuple(tokens[start : start + window])
        yield Window(piece, scored - start)
        scored = start + len(piece)


def log_likelihood(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> float:
    """Natural logarithm of the probability of `tokens` `[tokens]`, given logits `[tokens, vocabulary]`.

    Each row is the logits right before its token. Sums are in float64.
    """
    largest = logits.max(axis=1, keepdims=True)
    totals = np.exp(logits - largest).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(logits, np.asarray(tokens)[:, None], axis=1) - largest
    return float((chosen[:, 0].astype(np.float64) - np.log(totals)).sum())
