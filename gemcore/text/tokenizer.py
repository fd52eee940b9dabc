"""Text to token ids and back, over Hugging Face `tokenizers`."""

from __future__ import annotations

import codecs
import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from tokenizers import Tokenizer as Backend

from gemcore.errors import FormatError, UsageError
from gemcore.models.checkpoint import TextData

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


@functools.cache
def byte_alphabet() -> Mapping[str, int]:
    """The 256 characters that byte-level BPE writes bytes with (GPT-2), each with its byte.

    >>> byte_alphabet()["Ġ"]
    32
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


@attrs.frozen(kw_only=True)
class Spelling:
    """How the text of a token becomes bytes, and what is taken off the front of a whole text.

    Attributes:
        byte_level: tokens are written in `byte_alphabet()`.
        byte_tokens: a token `<0x0A>` means that byte (SentencePiece's byte fallback).
        replacements: pairs (old, new), applied to a token in order.
        leading_spaces: spaces to drop from the start of a decoded text.
    """

    byte_level: bool = False
    byte_tokens: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    leading_spaces: int = 0

    def to_bytes(self, token: str) -> bytes:
        """The bytes that a token stands for; together, tokens make UTF-8."""
        if self.byte_level:
            alphabet = byte_alphabet()
            try:
                return bytes([alphabet[character] for character in token])
            except KeyError:
                return token.encode()
        if self.byte_tokens and (match := _BYTE_TOKEN.match(token)):
            return bytes([int(match[1], 16)])
        for old, new in self.replacements:
            token = token.replace(old, new)
        return token.encode()


def _spelling(decoder: Mapping[str, Any]) -> Spelling | None:
    """Read the `decoder` part of a tokenizer file; None for a kind that is not known here."""
    kind = decoder.get("type")
    if kind == "ByteLevel":
        return Spelling(byte_level=True)
    if kind == "ByteFallback":
        return Spelling(byte_tokens=True)
    if kind == "Fuse":
        return Spelling()
    if kind == "Metaspace":
        return Spelling(
            replacements=((decoder["replacement"], " "),),
            leading_spaces=int(decoder.get("prepend_scheme") != "never"),
        )
    if kind == "Replace" and "String" in decoder["pattern"]:
        return Spelling(replacements=((decoder["pattern"]["String"], decoder["content"]),))
    if kind == "Strip" and decoder["content"] == " " and not decoder["stop"]:
        return Spelling(leading_spaces=decoder["start"])
    if kind == "Sequence":
        whole = Spelling()
        for part in map(_spelling, decoder["decoders"]):
            if part is None:
                return None
            whole = Spelling(
                byte_level=whole.byte_level or part.byte_level,
                byte_tokens=whole.byte_tokens or part.byte_tokens,
                replacements=whole.replacements + part.replacements,
                leading_spaces=whole.leading_spaces + part.leading_spaces,
            )
        return whole
    return None


def _load(tokenizer_json: str) -> Backend:
    try:
        backend = Backend.from_str(tokenizer_json)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise FormatError(f"the tokenizer file is not valid: {reason}") from error
    # A file may ask for cut or padded texts, which suits training only.
    backend.no_truncation()
    backend.no_padding()
    return backend


@attrs.define(eq=False)
class IncrementalDecoder:
    """Token ids to text, one at a time; a character appears once all of its bytes are there.

    The pieces of `push` and the one of `finish`, joined, are `Tokenizer.decode` of all the ids.
    """

    _bytes_of: Callable[[int], bytes]
    _leading_spaces: int = 0
    _utf8: codecs.IncrementalDecoder = attrs.field(
        init=False, factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character lacks bytes."""
        return self._without_leading_spaces(self._utf8.decode(self._bytes_of(token_id)))

    def finish(self) -> str:
        """What is left: U+FFFD if the last character never became complete, else nothing."""
        return self._without_leading_spaces(self._utf8.decode(b"", final=True))

    def _without_leading_spaces(self, text: str) -> str:
        while self._leading_spaces and text:
            if text[0] != " ":
                self._leading_spaces = 0
            else:
                self._leading_spaces -= 1
                text = text[1:]
        return text


@attrs.frozen(eq=False, kw_only=True)
class Tokenizer:
    """A tokenizer, with what its model expects around a text.

    Safe to use from several threads.

    Attributes:
        bos_token, eos_token: text of the special tokens, or None.
        add_bos: `encode_prompt` puts `bos_token` first.
        stop_token_ids: ids that end a generation.
    """

    _backend: Backend = attrs.field(repr=False, alias="backend")
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock, repr=False)
    _added: Mapping[int, tuple[str, bool]] = attrs.field(init=False, repr=False)
    _spelling: Spelling | None = attrs.field(init=False, repr=False)
    _decoder_kind: str = attrs.field(init=False, repr=False)

    @_added.default
    def _read_added(self) -> dict[int, tuple[str, bool]]:
        added = self._backend.get_added_tokens_decoder()
        return {token_id: (token.content, token.special) for token_id, token in added.items()}

    @_decoder_kind.default
    def _read_decoder_kind(self) -> str:
        return type(self._backend.decoder).__name__

    @_spelling.default
    def _read_spelling(self) -> Spelling | None:
        decoder = self._backend.decoder
        return None if decoder is None else _spelling(json.loads(decoder.__getstate__()))

    @classmethod
    def from_text_data(cls, text: TextData) -> Tokenizer:
        """The tokenizer of a checkpoint or a bundle; FormatError when its file is not valid."""
        return cls(
            backend=_load(text.tokenizer_json),
            bos_token=text.bos_token,
            eos_token=text.eos_token,
            add_bos=text.add_bos,
            stop_token_ids=text.stop_token_ids,
        )

    @classmethod
    def from_json(cls, tokenizer_json: str) -> Tokenizer:
        """A tokenizer from the text of a `tokenizer.json`; FormatError when it is not valid."""
        return cls(backend=_load(tokenizer_json))

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Text of every control token, such as `<|im_start|>`, in order of id."""
        return tuple(content for _, (content, special) in sorted(self._added.items()) if special)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it, or None."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; nothing is added before or after it.

        With `special`, control tokens written in the text, such as `<|im_start|>`, become those
        tokens: right for a rendered chat template. Without it they stay ordinary text: right for
        whatever a user wrote. Tokens that are added but not control tokens are found either way.
        """
        try:
            with self._lock:
                self._backend.encode_special_tokens = not special
                return list(self._backend.encode(text, add_special_tokens=False).ids)
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text cannot be written as UTF-8: character {error.start} is half of a "
                "surrogate pair"
            ) from error

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a user's text that is not a chat, after `bos_token` where one is expected."""
        ids = self.encode(text, special=False)
        bos = self.token_id(self.bos_token) if self.add_bos and self.bos_token else None
        return ids if bos is None else [bos, *ids]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of tokens; control tokens are left out unless `special`.

        The tokens' bytes are joined and read as UTF-8, where U+FFFD stands for what is not valid.
        """
        bytes_of = functools.partial(self._bytes_of, self._known_spelling(), special)
        text = b"".join(map(bytes_of, ids)).decode("utf-8", errors="replace")
        for _ in range(self._known_spelling().leading_spaces):
            text = text.removeprefix(" ")
        return text

    def incremental_decoder(self) -> IncrementalDecoder:
        """A decoder for tokens that come one by one; control tokens are left out."""
        spelling = self._known_spelling()
        bytes_of = functools.partial(self._bytes_of, spelling, False)
        return IncrementalDecoder(bytes_of, spelling.leading_spaces)

    def _known_spelling(self) -> Spelling:
        if self._spelling is None:
            raise FormatError(
                f"the tokenizer's decoder {self._decoder_kind} cannot be used to generate text; "
                "supported: ByteLevel, Metaspace, and sequences of Replace, ByteFallback, Fuse "
                "and Strip"
            )
        return self._spelling

    def _bytes_of(self, spelling: Spelling, special: bool, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            content, is_control = added
            return content.encode() if special or not is_control else b""
        token = self._backend.id_to_token(token_id)
        # Embeddings are often padded beyond the vocabulary; those rows have no text.
        return b"" if token is None else spelling.to_bytes(token)
