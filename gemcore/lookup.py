"""Prompt lookup: guessing the next tokens from what the text has said before."""

from __future__ import annotations

from collections.abc import Iterable

LENGTHS = (3, 2)
"""Lengths of the endings that are looked up, the most telling first."""


class PromptLookup:
    """Drafts tokens for speculative decoding, without a second model.

    Where the last three or two tokens came before, what followed them then may follow again: in
    summaries, corrections and answers about a document (A. Saxena, "Prompt Lookup Decoding", 2023).

    >>> lookup = PromptLookup(most=3)
    >>> lookup.extend([5, 6, 7, 8, 9, 5, 6])
    >>> lookup.draft()
    [7, 8, 9]
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Iterable[int]) -> None:
        """Add what was read or generated."""
        for token in tokens:
            # The newest ending is filed only when its follower is known.
            for length in LENGTHS:
                if len(self._tokens) >= length:
                    self._ends[tuple(self._tokens[-length:])] = len(self._tokens)
            self._tokens.append(token)

    def draft(self) -> list[int]:
        """The tokens that followed the latest like ending; none where there is none."""
        for length in LENGTHS:
            place = self._ends.get(tuple(self._tokens[-length:]))
            if place is not None:
                return self._tokens[place : place + self._most]
        return []
