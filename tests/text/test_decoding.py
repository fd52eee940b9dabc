"""The table of a vocabulary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemcore.text.decoding import DecodingData, Pieces, Spelling

TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
SPELLINGS = st.builds(
    Spelling,
    byte_level=st.booleans(),
    byte_tokens=st.booleans(),
    replacements=st.lists(st.tuples(TEXTS, TEXTS)).map(tuple),
    leading_spaces=st.integers(0, 3),
)


@given(
    st.dictionaries(st.integers(0, 2**31), st.tuples(TEXTS, st.booleans())),
    st.none() | SPELLINGS,
    TEXTS,
    st.none() | st.lists(TEXTS),
)
def test_decoding_data_comes_back(
    added: dict[int, tuple[str, bool]],
    spelling: Spelling | None,
    kind: str,
    tokens: list[str] | None,
) -> None:
    pieces = None if tokens is None else Pieces.pack(tokens)
    data = DecodingData(added=added, spelling=spelling, decoder_kind=kind, pieces=pieces)
    again = DecodingData.from_bytes(data.to_bytes())
    assert (again.added, again.spelling, again.decoder_kind) == (added, spelling, kind)
    assert (again.pieces is None) == (tokens is None)
    if again.pieces is not None and tokens is not None:
        assert [again.pieces[place] for place in range(len(tokens) + 1)] == [*tokens, ""]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)))))
def test_texts_come_back_and_ids_outside_have_none(tokens: list[str]) -> None:
    pieces = Pieces.pack(iter(tokens))
    assert [pieces[token_id] for token_id in range(len(tokens))] == tokens
    for outside in (-1, -len(tokens), len(tokens), len(tokens) + 7):
        if not 0 <= outside < len(tokens):
            assert pieces[outside] == ""
