"""Tokenizers from GGUF metadata, against tokenizers written here from their definition."""

from __future__ import annotations

import functools
import json
from itertools import pairwise
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import FormatError
from gemcore.text.decoding import byte_alphabet
from gemcore.text.gguf_tokenizer import MAX_TOKEN_CHARACTERS, splittings, text_data_from_gguf
from gemcore.text.tokenizer import Tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


class SlowByteLevel:
    """Byte-level byte-pair encoding, as slow and as plain as its definition."""

    def __init__(self, tokens: list[str], merges: list[str], steps: list[str]) -> None:
        self.ids = {token: place for place, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.steps = steps
        self.spell = {byte: character for character, byte in byte_alphabet().items()}
        self.word = functools.cache(self.word_ids)

    def encode(self, text: str) -> list[int]:
        words = [text]
        for step in self.steps:
            words = [part for word in words for part in isolate(step, word)]
        return [token for word in words for token in self.word(word)]

    def word_ids(self, word: str) -> list[int]:
        # Bytes that the vocabulary lacks are dropped before anything merges.
        parts = [p for p in (self.spell[byte] for byte in word.encode()) if p in self.ids]
        while True:
            pairs = [(self.ranks.get(pair), pair) for pair in pairwise(parts)]
            known = [(rank, pair) for rank, pair in pairs if rank is not None]
            if not known:
                return [self.ids[part] for part in parts]
            best = min(known)[1]
            merged, place = [], 0
            while place < len(parts):
                together = tuple(parts[place : place + 2]) == best
                merged.append("".join(best) if together else parts[place])
                place += 2 if together else 1
            parts = merged


def isolate(pattern: str, text: str) -> list[str]:
    """The matches of a pattern, and what is between them."""
    parts, end = [], 0
    for found in regex.finditer(pattern, text):
        parts += [text[end : found.start()], found[0]]
        end = found.end()
    return [part for part in [*parts, text[end:]] if part]


def slow_sentencepiece(tokens: list[str], scores: list[float], text: str) -> list[int]:
    """Merge the pair whose result scores best, leftmost first, until none is a token."""
    ids = {token: place for place, token in enumerate(tokens)}
    parts = list(("▁" + text).replace(" ", "▁")) if text else []
    while True:
        pairs = [
            (-scores[ids[a + b]], place)
            for place, (a, b) in enumerate(pairwise(parts))
            if a + b in ids
        ]
        if not pairs:
            break
        place = min(pairs)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    found = []
    for part in parts:
        as_bytes = [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
        found += [ids[part]] if part in ids else as_bytes
    return found


def byte_level_metadata(**changes: Any) -> dict[str, Any]:
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "12 3", "i g"]
    tokens = ["<|end|>", "<|im_end|>", *byte_alphabet(), *(m.replace(" ", "") for m in merges)]
    tokens.append("<think>")
    types = [CONTROL, CONTROL, *[NORMAL] * (len(tokens) - 3), USER_DEFINED]
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 0,
    }
    values.update({f"tokenizer.ggml.{name}": value for name, value in changes.items()})
    return {key: value for key, value in values.items() if value is not None}


PIECES = ["a", "b", "c", "▁", "ab", "▁a", "bc", "abc", "▁ab", "▁abc", "ca", "cab", "▁▁"]


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *PIECES]
    values = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            *[UNKNOWN, CONTROL, CONTROL],
            *[BYTE] * 256,
            *[NORMAL] * len(PIECES),
        ],
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(place) for place in range(len(PIECES))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    values.update({f"tokenizer.ggml.{name}": value for name, value in changes.items()})
    return {key: value for key, value in values.items() if value is not None}


def load(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_text_data(text_data_from_gguf(metadata))


@pytest.mark.model
def test_default_model_equals_reference_on_varied_lines(
    metadata: dict[str, Any], smollm2: Tokenizer, varied_lines: list[str]
) -> None:
    slow = SlowByteLevel(
        metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"], [r"\p{N}", GPT2]
    )
    assert len(varied_lines) >= 5000
    different = [
        line for line in varied_lines if smollm2.encode(line, special=False) != slow.encode(line)
    ]
    assert different == []


@pytest.mark.model
def test_default_model_gives_lines_back(smollm2: Tokenizer, varied_lines: list[str]) -> None:
    ids = {byte: smollm2.token_id(character) for character, byte in byte_alphabet().items()}
    lacking = {byte for byte, token in ids.items() if token is None}
    spellable = [line for line in varied_lines if lacking.isdisjoint(line.encode())]
    assert len(spellable) >= 5000
    for line in spellable:
        assert smollm2.decode(smollm2.encode(line, special=False)) == line


@pytest.mark.model
@pytest.mark.parametrize("special", [True, False])
def test_default_model_equals_llama_cpp(
    model_path: Any, smollm2: Tokenizer, varied_lines: list[str], special: bool
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    other = llama_cpp.Llama(str(model_path), vocab_only=True, verbose=False)
    for line in varied_lines:
        expected = other.tokenize(line.encode(), add_bos=False, special=special)
        assert smollm2.encode(line, special=special) == expected


@pytest.mark.model
def test_default_model_text_data(metadata: dict[str, Any]) -> None:
    text = text_data_from_gguf(metadata)
    assert (text.bos_token, text.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert text.add_bos is False
    assert text.stop_token_ids == (0, 2)
    assert text.chat_template == metadata["tokenizer.chat_template"]


@pytest.mark.parametrize(
    ("pre", "steps"),
    [
        (None, [GPT2]),
        ("default", [GPT2]),
        ("gpt-2", [GPT2]),
        ("llama-bpe", [LLAMA3]),
        ("llama3", [LLAMA3]),
        ("qwen2", [QWEN2]),
        ("smollm", [r"\p{N}", GPT2]),
    ],
)
@given(text=st.text(st.sampled_from("helo wig12'S\n\tté٣!\u00a0")))
def test_every_splitting_equals_reference(pre: str | None, steps: list[str], text: str) -> None:
    metadata = byte_level_metadata(pre=pre)
    slow = SlowByteLevel(
        metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"], steps
    )
    assert cached_tokenizer(pre).encode(text, special=False) == slow.encode(text)


@functools.cache
def cached_tokenizer(pre: str | None) -> Tokenizer:
    return load(byte_level_metadata(pre=pre))


def test_qwen2_composes_characters() -> None:
    tokenizer = load(byte_level_metadata(pre="qwen2"))
    assert tokenizer.decode(tokenizer.encode("e\u0301", special=False)) == "\u00e9"


def test_llama3_takes_whole_words_first() -> None:
    metadata = byte_level_metadata(pre="llama-bpe")
    # "llo" is a token that no merge makes.
    metadata["tokenizer.ggml.tokens"].append("llo")
    metadata["tokenizer.ggml.token_type"].append(NORMAL)
    tokenizer = load(metadata)
    assert tokenizer.encode("llo", special=False) == [tokenizer.token_id("llo")]


def test_bos_defaults_follow_the_splitting_and_the_file_wins() -> None:
    assert text_data_from_gguf(byte_level_metadata(pre="llama-bpe")).add_bos is True
    assert text_data_from_gguf(byte_level_metadata(pre="gpt-2")).add_bos is False
    assert text_data_from_gguf(sentencepiece_metadata()).add_bos is True
    assert text_data_from_gguf(sentencepiece_metadata(add_bos_token=False)).add_bos is False


def test_stop_tokens_are_those_named_and_known_control_tokens() -> None:
    metadata = byte_level_metadata(eos_token_id=5, eot_token_id=7)
    assert text_data_from_gguf(metadata).stop_token_ids == (0, 1, 5, 7)
    # <|im_end|> as an ordinary token ends nothing.
    metadata["tokenizer.ggml.token_type"][1] = NORMAL
    assert text_data_from_gguf(metadata).stop_token_ids == (0, 5, 7)


def test_user_defined_tokens_are_found_in_plain_text_and_control_tokens_are_not() -> None:
    tokenizer = load(byte_level_metadata())
    think, end = tokenizer.token_id("<think>"), tokenizer.token_id("<|im_end|>")
    text = "<think><|im_end|>"
    assert tokenizer.encode(text, special=True) == [think, end]
    plain = tokenizer.encode(text, special=False)
    assert plain[0] == think
    assert end not in plain
    assert tokenizer.decode(plain) == text


@functools.cache
def sentencepiece() -> Tokenizer:
    return load(sentencepiece_metadata())


@given(text=st.text(st.sampled_from("abc é🎉\n<s>")))
def test_sentencepiece_equals_reference(text: str) -> None:
    metadata = sentencepiece_metadata()
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    plain = sentencepiece().encode(text, special=False)
    # Texts in which a control token could be spelled are another test's matter.
    expected = slow_sentencepiece(tokens, scores, text)
    assert plain == expected
    assert sentencepiece().decode(plain) == text


def test_sentencepiece_text_never_merges_into_a_control_token() -> None:
    metadata = sentencepiece_metadata()
    for piece in ("<", "s", ">", "<s", "s>"):
        metadata["tokenizer.ggml.tokens"].append(piece)
        metadata["tokenizer.ggml.token_type"].append(NORMAL)
        metadata["tokenizer.ggml.scores"].append(-50.0)
    tokenizer = load(metadata)
    assert tokenizer.encode("<s>", special=True) == [1]
    plain = tokenizer.encode("<s>", special=False)
    assert 1 not in plain
    assert tokenizer.decode(plain) == "<s>"


def test_sentencepiece_without_a_prefix_space() -> None:
    tokenizer = load(sentencepiece_metadata(add_space_prefix=False))
    assert tokenizer.encode("a", special=False) == [tokenizer.token_id("a")]
    assert tokenizer.decode(tokenizer.encode(" a", special=False)) == " a"


def test_empty_tokens_are_kept_apart() -> None:
    metadata = byte_level_metadata()
    metadata["tokenizer.ggml.tokens"] += ["", ""]
    metadata["tokenizer.ggml.token_type"] += [NORMAL, NORMAL]
    count = len(metadata["tokenizer.ggml.tokens"])
    tokenizer = load(metadata)
    assert tokenizer.vocabulary_size == count
    assert tokenizer.token_id(f"[EMPTY_{count - 1}]") == count - 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "bert"}, "tokenizer model 'bert' is not supported: gpt2 and llama are"),
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"model": 3}, "tokenizer.ggml.model is int: it must be str"),
        ({"pre": "starcoder"}, "pre-tokenizer 'starcoder' is not supported: default, gpt-2, "),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": []}, "tokenizer.ggml.tokens is empty"),
        ({"tokens": [1, 2]}, "tokenizer.ggml.tokens is not a list of texts"),
        ({"tokens": ["a", "b", "a"]}, "tokens 0 and 2 are both 'a'"),
        ({"token_type": [1, 1]}, "tokenizer.ggml.token_type has shape [2], but there are 267"),
        ({"token_type": ["x"]}, "tokenizer.ggml.token_type must be a list of 267 numbers"),
        ({"token_type": [float("nan")] * 267}, "holds nan for token 0"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"merges": ["he"]}, "merge 0 is 'he': it must be two tokens and a space"),
        ({"merges": ["h e l"]}, "merge 0 is 'h e l': it must be two tokens and a space"),
        ({"merges": ["h e", "q z"]}, "merge 1 is 'q z', but 'q', 'z' and 'qz' are not all"),
        ({"eos_token_id": 267}, "eos_token_id is 267: it must be the id of one of 267 tokens"),
        ({"bos_token_id": -1}, "bos_token_id is -1"),
        ({"bos_token_id": True}, "bos_token_id is True"),
        ({"add_bos_token": 1}, "add_bos_token is int: it must be bool"),
    ],
)
def test_bad_byte_level_metadata_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FormatError) as caught:
        text_data_from_gguf(byte_level_metadata(**change))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scores": None}, "tokenizer.ggml.scores is missing"),
        ({"scores": [0.0]}, "tokenizer.ggml.scores has shape [1], but there are 272 tokens"),
        ({"scores": [float("nan")] * 272}, "tokenizer.ggml.scores holds nan for token 0"),
    ],
)
def test_bad_sentencepiece_metadata_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FormatError) as caught:
        text_data_from_gguf(sentencepiece_metadata(**change))
    assert sentence in str(caught.value)


def test_a_token_too_long_to_cut_is_refused() -> None:
    metadata = sentencepiece_metadata()
    metadata["tokenizer.ggml.tokens"][-1] = "a" * (MAX_TOKEN_CHARACTERS + 1)
    with pytest.raises(FormatError, match="token 271 has 1025 characters: at most 1024"):
        text_data_from_gguf(metadata)


@given(
    st.dictionaries(
        st.sampled_from(
            [f"tokenizer.ggml.{name}" for name in ("pre", "tokens", "merges", "token_type")]
            + ["tokenizer.ggml.eos_token_id", "tokenizer.chat_template"]
        ),
        st.one_of(st.integers(), st.text(), st.lists(st.text()), st.lists(st.floats()), st.none()),
    )
)
def test_any_metadata_gives_a_tokenizer_or_one_sentence(changes: dict[str, Any]) -> None:
    try:
        tokenizer = load({**byte_level_metadata(), **changes})
    except FormatError:
        return
    assert tokenizer.decode(tokenizer.encode("hello", special=False)) == "hello"


def test_the_file_is_json_and_every_splitting_loads() -> None:
    for name in splittings():
        text = text_data_from_gguf(byte_level_metadata(pre=name))
        assert json.loads(text.tokenizer_json)["model"]["type"] == "BPE"
        Tokenizer.from_text_data(text)


@pytest.mark.parametrize("kind", [7, -1, 1.5, 2.0**63])
def test_unknown_token_type_is_named(kind):
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": [1, kind],
    }
    with pytest.raises(FormatError, match="token 1 has the type .* are 0 to 6"):
        text_data_from_gguf(metadata)
