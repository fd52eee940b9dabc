"""Text while it is generated: whole characters, and exact stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from gemcore.errors import UsageError
from gemcore.text.decoding import byte_alphabet
from gemcore.text.streaming import TextStream
from gemcore.text.tokenizer import Tokenizer

TEXTS = st.text(st.sampled_from("abE ND\n é中文🎉👩‍👧🇫🇷\u200d"), max_size=40)
STOPS = st.lists(st.text(st.sampled_from("abE é🎉"), min_size=1, max_size=4), max_size=3)


def byte_level() -> Tokenizer:
    """Tokens of one byte, and some of several bytes that end inside characters."""
    spell = {byte: character for character, byte in byte_alphabet().items()}
    several = (b"ab", b" N", b"\xf0\x9f", b"\x8e\x89a", b"\xe4\xb8", b"\xadE", b"END")
    tokens = [*byte_alphabet(), *("".join(spell[byte] for byte in token) for token in several)]
    backend = Backend(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>")])
    return Tokenizer(backend=backend)


def byte_fallback() -> Tokenizer:
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", "a", "▁a", "中"]
    backend = Backend(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return Tokenizer(backend=backend)


BYTE_LEVEL, BYTE_FALLBACK = byte_level(), byte_fallback()


def pieces(stream: TextStream, ids: list[int]) -> list[str]:
    return [*map(stream.push, ids), stream.finish()]


def cut(text: str, stops: list[str]) -> str:
    """The text before the stop string that ends first; slowly, one character after another."""
    for end in range(len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            return text[: end - max(map(len, done))]
    return text


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK])
@given(data=st.data())
def test_pieces_joined_are_the_decoded_tokens(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1)))
    assert "".join(pieces(TextStream(tokenizer), ids)) == tokenizer.decode(ids)


@given(TEXTS)
def test_no_piece_splits_a_character(text: str) -> None:
    shown = pieces(TextStream(BYTE_LEVEL), BYTE_LEVEL.encode(text, special=False))
    assert "".join(shown) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in shown)


@given(TEXTS, STOPS)
def test_stop_strings_are_cut_exactly(text: str, stops: list[str]) -> None:
    stream = TextStream(BYTE_LEVEL, stops)
    shown = "".join(pieces(stream, BYTE_LEVEL.encode(text, special=False)))
    assert shown == cut(text, stops)
    assert stream.stopped == any(stop in text for stop in stops)


@given(st.lists(st.integers(0, BYTE_LEVEL.vocabulary_size - 1)), STOPS)
def test_stops_do_not_depend_on_how_text_is_cut_into_tokens(
    ids: list[int], stops: list[str]
) -> None:
    shown = "".join(pieces(TextStream(BYTE_LEVEL, stops), ids))
    assert shown == cut(BYTE_LEVEL.decode(ids), stops)


@given(TEXTS, STOPS)
def test_no_more_is_held_back_than_a_stop_string_needs(text: str, stops: list[str]) -> None:
    stream = TextStream(BYTE_LEVEL, stops)
    shown = ""
    for token in BYTE_LEVEL.encode(text, special=False):
        shown += stream.push(token)
        held = cut(text, stops)[len(shown) :]
        if stream.stopped:
            assert held == ""
            return
    # What is held back at the end of the text is the start of a stop string.
    rest = text[len(shown) :]
    assert not rest or any(stop.startswith(rest) for stop in stops)


def test_a_stop_over_several_tokens() -> None:
    stream = TextStream(BYTE_LEVEL, stops=["END"])
    shown = [stream.push(BYTE_LEVEL.token_id(c) or 0) for c in "aENaEND!"]
    assert shown == ["a", "", "", "ENa", "", "", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_text_held_back_comes_at_the_end() -> None:
    stream = TextStream(BYTE_LEVEL, stops=["END"])
    assert [stream.push(BYTE_LEVEL.token_id(c) or 0) for c in "EN"] == ["", ""]
    assert stream.finish() == "EN"
    assert not stream.stopped
    assert stream.finish() == ""


def test_control_tokens_are_not_shown() -> None:
    end = BYTE_LEVEL.token_id("<|end|>")
    assert end is not None
    assert pieces(TextStream(BYTE_LEVEL), [end, 0]) == ["", BYTE_LEVEL.decode([0]), ""]


def test_little_is_kept_however_long_the_text() -> None:
    stream = TextStream(BYTE_LEVEL, stops=["END"])
    invalid = BYTE_LEVEL.token_id(next(c for c, byte in byte_alphabet().items() if byte == 0xF0))
    for token in [0, invalid or 0] * 2000:
        stream.push(token)
        assert len(stream._held) < len("END")


def test_an_empty_stop_string_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"stop strings \['a', ''\] must be texts of at least one"):
        TextStream(BYTE_LEVEL, stops=["a", ""])


@pytest.mark.model
def test_default_model_streams_varied_lines(smollm2: Tokenizer, varied_lines: list[str]) -> None:
    for line in varied_lines[::5]:
        ids = smollm2.encode(line, special=False)
        assert "".join(pieces(TextStream(smollm2), ids)) == smollm2.decode(ids)
