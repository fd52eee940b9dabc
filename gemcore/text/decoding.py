"""Token ids back to text, as bytes first: a character may be spread over several tokens."""

from __future__ import annotations

import codecs
import functools
import json
import re
from array import array
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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


def read_spelling(decoder: Mapping[str, Any]) -> Spelling | None:  # noqa: PLR0911
    """Read the `decoder` part of a tokenizer file; None for a kind that is not known here."""
    match decoder:
        case {"type": "ByteLevel"}:
            return Spelling(byte_level=True)
        case {"type": "ByteFallback"}:
            return Spelling(byte_tokens=True)
        case {"type": "Fuse"}:
            return Spelling()
        case {"type": "Metaspace", "replacement": str(old)}:
            prefix = decoder.get("prepend_scheme") != "never"
            return Spelling(replacements=((old, " "),), leading_spaces=int(prefix))
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            return Spelling(replacements=((old, new),))
        case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
            return Spelling(leading_spaces=start)
        case {"type": "Sequence", "decoders": [*parts]}:
            return _joined([read_spelling(part) for part in parts])
        case _:
            return None


def _joined(parts: Sequence[Spelling | None]) -> Spelling | None:
    whole = Spelling()
    for part in parts:
        if part is None:
            return None
        whole = Spelling(
            byte_level=whole.byte_level or part.byte_level,
            byte_tokens=whole.byte_tokens or part.byte_tokens,
            replacements=whole.replacements + part.replacements,
            leading_spaces=whole.leading_spaces + part.leading_spaces,
        )
    return whole


@attrs.frozen(eq=False)
class Pieces:
    """The texts of a vocabulary as one block of bytes: far less than as many strings would take.

    >>> pieces = Pieces.pack(["a", "", "béc"])
    >>> pieces[2], pieces[3]
    ('béc', '')
    """

    _text: bytes = attrs.field(repr=False)
    _ends: array[int] = attrs.field(repr=False)

    @classmethod
    def pack(cls, tokens: Iterable[str]) -> Pieces:
        """The texts of tokens 0, 1, 2 and so on; TypeError for one that is not a text."""
        text, ends, rest = bytearray(), array("I"), iter(tokens)
        # A part at a time, without a loop in Python: quick, and never all of them as strings.
        while part := list(map(str.encode, islice(rest, 4096))):
            ends.extend(islice(accumulate(map(len, part), initial=len(text)), 1, None))
            text += b"".join(part)
        return cls(bytes(text), ends)

    @classmethod
    def from_bytes(cls, data: bytes) -> Pieces:
        """What `to_bytes` gave in a process on the same machine."""
        size = int.from_bytes(data[:8], "little")
        return cls(data[8 : 8 + size], array("I", data[8 + size :]))

    def to_bytes(self) -> bytes:
        """The length of all texts, the texts, and where each one ends."""
        return len(self._text).to_bytes(8, "little") + self._text + self._ends.tobytes()

    def __getitem__(self, token_id: int) -> str:
        """The text of a token; empty for an id that there is none of."""
        if not 0 <= token_id < len(self._ends):
            return ""
        start = self._ends[token_id - 1] if token_id else 0
        return self._text[start : self._ends[token_id]].decode()


@attrs.frozen(kw_only=True, eq=False)
class DecodingData:
    """What must be known of a tokenizer to turn its tokens into text.

    Attributes:
        added: tokens beside the vocabulary: text, and whether it is a control token.
        spelling: how tokens become bytes; None where the decoder is of a kind that is not known.
        decoder_kind: the decoder's own name.
        pieces: texts of the vocabulary; without them the tokenizer itself must be asked.
    """

    added: Mapping[int, tuple[str, bool]]
    spelling: Spelling | None
    decoder_kind: str
    pieces: Pieces | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> DecodingData:
        """What `to_bytes` gave in a process on the same machine."""
        head, _, pieces = data.partition(b"\n")
        values = json.loads(head)
        spelling = values["spelling"]
        if spelling is not None:
            pairs = tuple((old, new) for old, new in spelling.pop("replacements"))
            spelling = Spelling(replacements=pairs, **spelling)
        return cls(
            added={token_id: (text, control) for token_id, text, control in values["added"]},
            spelling=spelling,
            decoder_kind=values["decoder_kind"],
            pieces=Pieces.from_bytes(pieces) if values["has_pieces"] else None,
        )

    def to_bytes(self) -> bytes:
        """A line of JSON, and the pieces."""
        head = {
            "added": [[token_id, *token] for token_id, token in self.added.items()],
            "spelling": self.spelling and attrs.asdict(self.spelling),
            "decoder_kind": self.decoder_kind,
            "has_pieces": self.pieces is not None,
        }
        return json.dumps(head).encode() + b"\n" + (self.pieces.to_bytes() if self.pieces else b"")


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
