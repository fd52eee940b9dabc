"""What a sentence encoder reads of a text, against WordPiece as it is written down."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import FormatError
from gemcore.testing.encoder import letters_tokenizer
from gemcore.text.encoder_tokenizer import EncoderTokenizer

VOCABULARY = json.loads(letters_tokenizer())["model"]["vocab"]


def expected(text: str, longest: int) -> list[int]:
    """Every character of a word is a piece here, and all but the first begin with `##`."""
    ids = []
    for word in text.lower().split():
        pieces = [word[0], *(f"##{letter}" for letter in word[1:])]
        ids += [VOCABULARY.get(piece, VOCABULARY["[UNK]"]) for piece in pieces]
    return [VOCABULARY["[CLS]"], *ids[: longest - 2], VOCABULARY["[SEP]"]]


@given(st.text(st.sampled_from("aBz09 \n"), max_size=40), st.integers(2, 20))
def test_texts_are_cut_and_what_goes_around_them_stays(text, longest) -> None:
    tokenizer = EncoderTokenizer(source=letters_tokenizer, longest=longest)
    assert tokenizer.encode(text) == expected(text, longest)


def test_control_tokens_in_a_text_are_ordinary_text() -> None:
    tokenizer = EncoderTokenizer(source=letters_tokenizer, longest=32)
    ids = tokenizer.encode("a[SEP]b")
    assert [i for i in ids if i == VOCABULARY["[SEP]"]] == ids[-1:]
    assert len(ids) == 9


def test_the_file_is_read_when_it_is_needed() -> None:
    asked = []

    def source():
        asked.append(1)
        return letters_tokenizer()

    tokenizer = EncoderTokenizer(source=source, longest=8)
    assert asked == []
    assert tokenizer.encode("a b") == tokenizer.encode("a  b")
    assert asked == [1]


@pytest.mark.parametrize(
    ("file", "longest", "said"),
    [("{}", 8, "not valid"), (letters_tokenizer(), 1, "cannot cut texts to 1 tokens")],
)
def test_what_cannot_be_used_is_refused(file, longest, said) -> None:
    with pytest.raises(FormatError, match=said):
        EncoderTokenizer(source=lambda: file, longest=longest).encode("abc")
