"""The table of a vocabulary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemcore.text.decoding import Pieces


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)))))
def test_texts_come_back_and_ids_outside_have_none(tokens: list[str]) -> None:
    pieces = Pieces.pack(iter(tokens))
    assert [pieces[token_id] for token_id in range(len(tokens))] == tokens
    for outside in (-1, -len(tokens), len(tokens), len(tokens) + 7):
        if not 0 <= outside < len(tokens):
            assert pieces[outside] == ""
