from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemcore.lookup import PromptLookup


def search(tokens: list[int], most: int) -> list[int]:
    """The same by looking at every place, the latest first."""
    for length in (3, 2):
        if len(tokens) < length:
            continue
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                return tokens[end : end + most]
    return []


@given(
    tokens=st.lists(st.integers(0, 3), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    most=st.integers(1, 8),
)
def test_drafts_what_followed_the_latest_like_ending(tokens, cuts, most):
    lookup = PromptLookup(most)
    begin = 0
    for end in [*sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]:
        lookup.extend(tokens[begin:end])
        begin = end
    assert lookup.draft() == search(tokens, most)
