"""Encoding and decoding, against the `tokenizers` library's own decoders."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from gemcore.errors import FormatError, UsageError
from gemcore.models.checkpoint import TextData
from gemcore.text.decoding import DecodingData, byte_alphabet
from gemcore.text.tokenizer import Tokenizer


def byte_level_backend() -> Backend:
    """All bytes, each a token, with two control tokens and one that is merely added."""
    vocabulary = {character: place for place, character in enumerate(byte_alphabet())}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|a|>"), AddedToken("<|b|>")])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return backend


def byte_fallback_backend(*last: Any) -> Backend:
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + ["<unk>", "▁", "a", "b", "▁a"]
    backend = Backend(
        models.BPE(
            {token: place for place, token in enumerate(tokens)},
            [("▁", "a")],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    backend.decoder = decoders.Sequence(parts)
    return backend


BYTE_LEVEL = byte_level_backend()
OURS = Tokenizer(backend=byte_level_backend())


def test_the_byte_alphabet_is_that_of_the_library() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@given(st.lists(st.integers(0, 258)))
def test_byte_level_decoding_equals_the_library_even_on_invalid_utf8(ids: list[int]) -> None:
    assert OURS.decode(ids) == BYTE_LEVEL.decode(ids, skip_special_tokens=True)
    assert OURS.decode(ids, special=True) == BYTE_LEVEL.decode(ids, skip_special_tokens=False)


@given(st.text())
def test_byte_fallback_decoding_equals_the_library(text: str) -> None:
    backend = byte_fallback_backend(decoders.Strip(" ", 1, 0))
    tokenizer = Tokenizer(backend=backend)
    ids = tokenizer.encode(text, special=False)
    assert tokenizer.decode(ids) == backend.decode(ids) == text


@given(st.text(st.sampled_from("ab ")).filter(lambda text: not text.startswith(" ")))
def test_metaspace_decoding_equals_the_library(text: str) -> None:
    backend = byte_fallback_backend()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(backend=backend)
    ids = tokenizer.encode(text, special=False)
    assert tokenizer.decode(ids) == backend.decode(ids) == text


@given(st.text())
def test_text_comes_back(text: str) -> None:
    assert OURS.decode(OURS.encode(text, special=False)) == text
    assert OURS.decode(OURS.encode(text, special=True), special=True) == text


def test_control_tokens_are_read_only_when_asked() -> None:
    assert OURS.encode("<|a|>x", special=True) == [256, OURS.token_id("x")]
    assert OURS.encode("<|a|>x", special=False) == [OURS.token_id(c) for c in "<|a|>x"]
    # The choice of one call does not leak into the next.
    assert OURS.encode("<|b|>", special=True) == [257]


def test_added_tokens_that_are_not_control_tokens_are_always_read() -> None:
    think = OURS.token_id("<think>")
    assert OURS.encode("<think>", special=False) == [think]
    assert OURS.decode([think]) == "<think>"
    assert OURS.control_tokens == ("<|a|>", "<|b|>")


def test_threads_do_not_change_each_others_choice() -> None:
    def encode(special: bool) -> list[int]:
        return OURS.encode("<|a|>", special=special)

    wanted = [False, True] * 200
    with ThreadPoolExecutor(4) as pool:
        lengths = [len(ids) for ids in pool.map(encode, wanted)]
    assert lengths == [1 if special else 5 for special in wanted]


def test_sizes_and_unknown_ids() -> None:
    assert OURS.vocabulary_size == 259
    assert OURS.token_id("no such token") is None
    # Rows of an embedding beyond the vocabulary have no text.
    assert OURS.decode([OURS.token_id("x"), 5000]) == "x"


def test_prompt_gets_bos_only_where_expected() -> None:
    file = byte_level_backend().to_str()
    with_bos = Tokenizer.from_text_data(
        TextData(tokenizer_json=file, bos_token="<|a|>", add_bos=True)
    )
    without = Tokenizer.from_text_data(TextData(tokenizer_json=file, bos_token="<|a|>"))
    plain = without.encode_prompt("x<|a|>")
    assert plain == without.encode("x<|a|>", special=False)
    assert with_bos.encode_prompt("x<|a|>") == [256, *plain]


def test_a_file_cannot_ask_for_truncation_padding_or_added_tokens() -> None:
    backend = byte_level_backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    assert len(Tokenizer.from_json(backend.to_str()).encode("hello", special=False)) == 5


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"type": "Nonsense"}}', "\x00"])
def test_a_bad_file_is_one_sentence(text: str) -> None:
    with pytest.raises(FormatError, match=r"the tokenizer file is not valid: .+") as caught:
        Tokenizer.from_json(text)
    assert "\n" not in str(caught.value)


def test_half_of_a_surrogate_pair_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="character 2 is half of a surrogate pair"):
        OURS.encode("ab\ud800", special=True)


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), decoders.CTC(), None])
def test_a_decoder_that_is_not_known_encodes_but_does_not_decode(decoder: Any) -> None:
    backend = byte_level_backend()
    backend.decoder = decoder
    tokenizer = Tokenizer.from_json(json.dumps(json.loads(backend.to_str())))
    assert tokenizer.encode("x", special=False)
    with pytest.raises(FormatError, match="supported: ByteLevel, Metaspace"):
        tokenizer.decode([0])


class Source:
    """The text of a tokenizer file, and how often it was asked for."""

    def __init__(self, backend: Backend) -> None:
        self.text, self.times = backend.to_str(), 0

    def __call__(self) -> str:
        self.times += 1
        return self.text


def releasable(backend: Backend) -> tuple[Tokenizer, Source]:
    source = Source(backend)
    return Tokenizer.from_text_data(TextData(tokenizer_json=source.text), source=source), source


BACKENDS = pytest.mark.parametrize(
    "backend", [byte_level_backend(), byte_fallback_backend(decoders.Strip(" ", 1, 0))]
)


@BACKENDS
@pytest.mark.parametrize("special", [False, True])
def test_released_tokenizers_decode_as_before_without_loading(
    backend: Backend, special: bool
) -> None:
    tokenizer, source = releasable(backend)
    # With two ids that no token has: embeddings are padded.
    ids = [10**6, 999, *reversed(range(tokenizer.vocabulary_size))]
    ids += sorted(ids)
    each = [tokenizer.decode([token_id], special=special) for token_id in ids]
    whole = tokenizer.decode(ids, special=special)
    tokenizer.release()
    assert [tokenizer.decode([token_id], special=special) for token_id in ids] == each
    assert tokenizer.decode(ids, special=special) == whole
    decoder = tokenizer.incremental_decoder()
    assert "".join(map(decoder.push, ids)) + decoder.finish() == tokenizer.decode(ids)
    assert tokenizer.control_tokens == Tokenizer(backend=backend).control_tokens
    assert source.times == 0


@BACKENDS
def test_released_tokenizers_load_again_to_encode(backend: Backend) -> None:
    tokenizer, source = releasable(backend)
    text = "a <|a|> b<think>\n"
    before = [tokenizer.encode(text, special=special) for special in (False, True)]
    for times in (1, 2):
        tokenizer.release()
        tokenizer.release()
        assert [tokenizer.encode(text, special=special) for special in (False, True)] == before
        assert source.times == times
    tokenizer.release()
    assert tokenizer.token_id("a") == backend.token_to_id("a")
    assert tokenizer.vocabulary_size == backend.get_vocab_size(with_added_tokens=True)


def test_nothing_is_loaded_before_it_is_needed() -> None:
    source = Source(byte_level_backend())
    tokenizer = Tokenizer(source=source, bos_token="<|a|>", add_bos=True)
    assert source.times == 0
    assert tokenizer.encode_prompt("ab") == [256, *OURS.encode("ab", special=False)]
    assert tokenizer.decode([256, 0]) == OURS.decode([256, 0])
    assert source.times == 1


@BACKENDS
@pytest.mark.parametrize("special", [False, True])
def test_decoding_data_of_another_process_is_enough_to_decode(
    backend: Backend, special: bool
) -> None:
    there, _ = releasable(backend)
    source = Source(backend)
    here = Tokenizer(source=source)
    here.use_decoding_data(DecodingData.from_bytes(there.decoding_data().to_bytes()))
    ids = [10**6, *range(there.vocabulary_size + 2)]
    for some in ([token_id] for token_id in ids):
        assert here.decode(some, special=special) == there.decode(some, special=special)
    assert here.decode(ids, special=special) == there.decode(ids, special=special)
    assert here.control_tokens == there.control_tokens
    assert source.times == 0
    assert here.encode("a b", special=False) == there.encode("a b", special=False)
    assert source.times == 1


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), None])
def test_decoding_data_keeps_what_is_wrong_with_a_decoder(decoder: Any) -> None:
    backend = byte_level_backend()
    backend.decoder = decoder
    there = Tokenizer(backend=backend)
    here = Tokenizer(source=backend.to_str)
    here.use_decoding_data(DecodingData.from_bytes(there.decoding_data().to_bytes()))
    with pytest.raises(FormatError) as wanted:
        there.decode([0])
    with pytest.raises(FormatError) as found:
        here.decode([0])
    assert str(found.value) == str(wanted.value)


def test_decoding_data_of_a_vocabulary_that_leaves_ids_out_has_no_pieces() -> None:
    backend = Backend(models.BPE({"a": 0, "b": 7}, []))
    backend.decoder = decoders.ByteLevel()
    there, _ = releasable(backend)
    source = Source(backend)
    here = Tokenizer(source=source)
    here.use_decoding_data(DecodingData.from_bytes(there.decoding_data().to_bytes()))
    assert here.decode([7, 0, 3]) == "ba"
    assert source.times == 1


def test_a_tokenizer_without_a_source_keeps_what_it_has() -> None:
    tokenizer = Tokenizer(backend=byte_level_backend())
    tokenizer.release()
    assert tokenizer.encode("ab", special=False) == OURS.encode("ab", special=False)


def test_text_data_is_a_source() -> None:
    text = byte_level_backend().to_str()
    for tokenizer in (
        Tokenizer.from_json(text),
        Tokenizer.from_text_data(TextData(tokenizer_json=text)),
    ):
        tokenizer.release()
        assert tokenizer.encode("ab", special=False) == OURS.encode("ab", special=False)


def test_a_vocabulary_that_leaves_ids_out_is_kept() -> None:
    backend = Backend(models.BPE({"a": 0, "b": 7}, []))
    backend.decoder = decoders.ByteLevel()
    tokenizer, source = releasable(backend)
    tokenizer.release()
    assert tokenizer.encode("ab", special=False) == [0, 7]
    assert tokenizer.decode([7, 0, 3]) == "ba"
    assert source.times == 0


def test_releasing_while_others_work_disturbs_nobody() -> None:
    tokenizer, _ = releasable(byte_level_backend())
    text = "Käse <|a|>!"
    ids = tokenizer.encode(text, special=False)

    def work(number: int) -> bool:
        if number % 5 == 0:
            tokenizer.release()
        return tokenizer.decode(ids) == text and tokenizer.encode(text, special=False) == ids

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(60)))


def test_what_a_tokenizer_says_of_itself_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenAttributeError):
        OURS.add_bos = True
