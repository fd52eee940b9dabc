"""Bands of the vocabulary: rows of frequent and of rare tokens, each with a precision of its own.

Tokenizers number tokens in the order in which they were merged, which is nearly that of how often they come
(Sennrich et al., arXiv 1508.07909): in SmolLM2 the first sixteenth of the vocabulary is read and written
so often that two thirds of what rounding embedding and head costs are lost there. So the first rows are
worth more bits, and the last ones fewer. Where a vocabulary is in another order, the bands cost alike.
"""

from __future__ import annotations

from gemcore.schemes import TILE

STEP = 4
"""Each band ends at so many times the end of the one before."""

FEWEST_ROWS = 512
"""A smaller band saves too little for one more product."""


def first_rows(vocabulary: int, bands: int) -> tuple[int, ...]:
    """The first row of each band but the first: each band ends at four times the end of the one before.

    >>> first_rows(49152, 3), first_rows(49152, 1), first_rows(2000, 3)
    ((3072, 12288), (), ())
    """
    ends = [vocabulary // STEP**power // TILE * TILE for power in range(bands - 1, 0, -1)]
    return tuple(end for end in ends if end >= FEWEST_ROWS)
