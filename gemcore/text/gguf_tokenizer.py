"""A tokenizer from the metadata of a GGUF file.

GGUF keeps a vocabulary, merges or scores, and a name for the way text is split; this module writes
them as a Hugging Face `tokenizers` file. Two kinds of vocabulary are known: `gpt2` (byte-level
byte-pair encoding) and `llama` (SentencePiece: pairs merge by score, unknown characters become
bytes). Where the format leaves things open, llama.cpp is followed.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError
from gemcore.models.checkpoint import TextData

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAX_TOKEN_CHARACTERS = 1024
"""A longer token is refused: finding the merges of a token takes the square of its length."""

END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end|>",
    "</s>",
)
"""Control tokens that end a generation in every model that has them."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS_TO_SPACES = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = f"{_CONTRACTIONS}|{_WORDS_TO_SPACES}" % r"\p{N}{1,3}"
_QWEN2_SPLIT = f"{_CONTRACTIONS}|{_WORDS_TO_SPACES}" % r"\p{N}"

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""

_Json = dict[str, Any]


class TokenType(IntEnum):
    """GGUF's `token_type`: what a token of the vocabulary is."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@attrs.frozen(kw_only=True)
class Splitting:
    """How byte-level text is cut into words before pairs merge; `tokenizer.ggml.pre` names it.

    Attributes:
        steps: pre-tokenizers of a `tokenizers` file.
        normalizer: as in that file, or None.
        whole_words_first: a word that is in the vocabulary is one token, whatever the merges say.
        add_bos: what holds when the file does not say.
    """

    steps: tuple[_Json, ...]
    normalizer: _Json | None = None
    whole_words_first: bool = False
    add_bos: bool = False


def _byte_level(*, use_regex: bool) -> _Json:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> _Json:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def splittings() -> dict[str, Splitting]:
    """The known values of `tokenizer.ggml.pre`; `default` is what files without one are."""
    gpt2 = Splitting(steps=(_byte_level(use_regex=True),))
    llama3 = Splitting(
        steps=(_split(_LLAMA3_SPLIT), _byte_level(use_regex=False)),
        whole_words_first=True,
        add_bos=True,
    )
    qwen2 = Splitting(
        steps=(_split(_QWEN2_SPLIT), _byte_level(use_regex=False)), normalizer={"type": "NFC"}
    )
    smollm = Splitting(
        steps=({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True))
    )
    return {
        "default": gpt2,
        "gpt-2": gpt2,
        "llama-bpe": llama3,
        "llama3": llama3,
        "qwen2": qwen2,
        "smollm": smollm,
    }


def text_data_from_gguf(metadata: Mapping[str, Any]) -> TextData:
    """The text data of a GGUF file, from its metadata.

    `metadata` maps each key to a plain value: numbers, texts, lists of texts, and lists or arrays
    of numbers. A missing or contradictory value, or a kind of tokenizer that is not known, raises
    FormatError.
    """
    model = _text(metadata, "tokenizer.ggml.model")
    if model not in {"gpt2", "llama"}:
        raise FormatError(f"tokenizer model '{model}' is not supported: gpt2 and llama are")
    vocabulary = _vocabulary(metadata)
    if model == "gpt2":
        file, add_bos = _byte_level_file(metadata, vocabulary)
    else:
        file, add_bos = _sentencepiece_file(metadata, vocabulary)

    bos = _token_id(metadata, "bos", vocabulary)
    eos = _token_id(metadata, "eos", vocabulary)
    stops = {eos, _token_id(metadata, "eot", vocabulary), _token_id(metadata, "eom", vocabulary)}
    stops.update(vocabulary.ids[text] for text in END_TOKENS if text in vocabulary.control)
    tokens = vocabulary.tokens
    return TextData(
        tokenizer_json=json.dumps(file, ensure_ascii=False, separators=(",", ":")),
        chat_template=_optional(metadata, "tokenizer.chat_template", str),
        bos_token=None if bos is None else tokens[bos],
        eos_token=None if eos is None else tokens[eos],
        add_bos=_flag(metadata, "tokenizer.ggml.add_bos_token", default=add_bos),
        stop_token_ids=tuple(sorted(token_id for token_id in stops if token_id is not None)),
    )


@attrs.frozen(kw_only=True)
class _Vocabulary:
    tokens: Sequence[str]
    ids: Mapping[str, int]
    types: Sequence[int]

    @property
    def control(self) -> frozenset[str]:
        return frozenset(
            token
            for token, kind in zip(self.tokens, self.types, strict=True)
            if kind == TokenType.CONTROL
        )

    def added(self) -> list[_Json]:
        """Tokens that are found in text before it is split: control tokens and a user's own."""
        # llama.cpp's parse_special=False passes over control and unknown tokens: "special" here.
        special = {TokenType.CONTROL, TokenType.UNKNOWN}
        return [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind in special,
            }
            for token_id, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in special or kind == TokenType.USER_DEFINED
        ]


def _vocabulary(metadata: Mapping[str, Any]) -> _Vocabulary:
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    if not tokens:
        raise FormatError("tokenizer.ggml.tokens is empty: a model needs at least one token")
    # As llama.cpp names them, so that each one stays distinct.
    tokens = [token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(tokens)]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        first = next(token_id for token_id, token in enumerate(tokens) if ids[token] != token_id)
        raise FormatError(
            f"tokens {first} and {ids[tokens[first]]} are both {tokens[first]!r}: the tokens of a "
            "vocabulary must differ"
        )
    return _Vocabulary(tokens=tokens, ids=ids, types=_token_types(metadata, len(tokens)))


def _token_types(metadata: Mapping[str, Any], count: int) -> list[int]:
    types = _numbers(metadata, "tokenizer.ggml.token_type", count)
    if types is None:
        return [int(TokenType.NORMAL)] * count
    unknown = ~np.isin(types, list(TokenType))
    if unknown.any():
        place = int(unknown.argmax())
        raise FormatError(
            f"token {place} has the type {types[place]:g}: the known types of a token are "
            f"{min(TokenType)} to {max(TokenType)}"
        )
    return [int(kind) for kind in types]


def _byte_level_file(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> tuple[_Json, bool]:
    known = splittings()
    name = _optional(metadata, "tokenizer.ggml.pre", str) or "default"
    if name not in known:
        raise FormatError(
            f"pre-tokenizer '{name}' is not supported: {', '.join(sorted(known))} are"
        )
    splitting = known[name]
    merges = _written_merges(_texts(metadata, "tokenizer.ggml.merges"), vocabulary.ids)
    steps = list(splitting.steps)
    file = _file(vocabulary, merges, ignore_merges=splitting.whole_words_first)
    file["normalizer"] = splitting.normalizer
    file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    file["decoder"] = _byte_level(use_regex=True)
    return file, splitting.add_bos


def _sentencepiece_file(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> tuple[_Json, bool]:
    tokens = vocabulary.tokens
    scores = _numbers(metadata, "tokenizer.ggml.scores", len(tokens))
    if scores is None:
        raise FormatError("tokenizer.ggml.scores is missing: a llama tokenizer needs it")
    prefix = _flag(metadata, "tokenizer.ggml.add_space_prefix", default=True)
    unknown = _token_id(metadata, "unknown", vocabulary)
    file = _file(
        vocabulary,
        list(_scored_merges(vocabulary, scores)),
        unk_token=tokens[0 if unknown is None else unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    start = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    file["normalizer"] = {"type": "Sequence", "normalizers": [*start, spaces]}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    file["decoder"] = {
        "type": "Sequence",
        "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
    }
    return file, True


def _file(vocabulary: _Vocabulary, merges: Sequence[tuple[str, str]], **settings: Any) -> _Json:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": vocabulary.ids,
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }


def _written_merges(merges: Sequence[str], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """`"Ġ t"` as `("Ġ", "t")`; both halves and the whole must be tokens."""
    pairs = []
    for place, merge in enumerate(merges):
        left, space, right = merge.partition(" ")
        if not (left and space and right) or " " in right:
            raise FormatError(f"merge {place} is {merge!r}: it must be two tokens and a space")
        if left not in ids or right not in ids or left + right not in ids:
            raise FormatError(
                f"merge {place} is {merge!r}, but {left!r}, {right!r} and {left + right!r} are not "
                "all in the vocabulary"
            )
        pairs.append((left, right))
    return pairs


def _scored_merges(
    vocabulary: _Vocabulary, scores: npt.NDArray[np.float64]
) -> Iterator[tuple[str, str]]:
    """Every pair of tokens that makes a token, the best score of the result first.

    Only ordinary tokens take part, so that no text a user writes can merge into a control token.
    """
    ordinary = {TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNDEFINED}
    usable = {
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in ordinary
    }
    for token_id in np.argsort(-scores, kind="stable").tolist():
        token = vocabulary.tokens[token_id]
        if token not in usable:
            continue
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise FormatError(
                f"token {token_id} has {len(token)} characters: at most {MAX_TOKEN_CHARACTERS} "
                "are allowed"
            )
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in usable and right in usable:
                yield left, right


def _optional(metadata: Mapping[str, Any], key: str, kind: type) -> Any:
    value = metadata.get(key)
    if value is not None and not isinstance(value, kind):
        raise FormatError(f"{key} is {type(value).__name__}: it must be {kind.__name__}")
    return value


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = _optional(metadata, key, str)
    if value is None:
        raise FormatError(f"{key} is missing: the file says nothing of its tokenizer")
    return str(value)


def _flag(metadata: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = _optional(metadata, key, bool)
    return default if value is None else bool(value)


def _texts(metadata: Mapping[str, Any], key: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        found = "missing" if values is None else "not a list of texts"
        raise FormatError(f"{key} is {found}: the tokenizer needs a list of texts")
    return list(values)


def _numbers(metadata: Mapping[str, Any], key: str, length: int) -> npt.NDArray[np.float64] | None:
    """The numbers under `key`, float64 `[length]`; None where the file has none."""
    if metadata.get(key) is None:
        return None
    try:
        values = np.asarray(metadata[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{key} must be a list of {length} numbers") from error
    if values.shape != (length,):
        raise FormatError(f"{key} has shape {list(values.shape)}, but there are {length} tokens")
    if not np.isfinite(values).all():
        place = int(np.isfinite(values).argmin())
        raise FormatError(f"{key} holds {values[place]} for token {place}: it must be finite")
    return values


def _token_id(metadata: Mapping[str, Any], name: str, vocabulary: _Vocabulary) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    count = len(vocabulary.tokens)
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or not 0 <= value < count:
        raise FormatError(f"{key} is {value!r}: it must be the id of one of {count} tokens")
    return int(value)
