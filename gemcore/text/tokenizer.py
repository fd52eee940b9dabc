"""Text to token ids and back, over Hugging Face `tokenizers`."""

from __future__ import annotations

import functools
import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import attrs

from gemcore.errors import FormatError, UsageError
from gemcore.runtime.memory import return_free_memory
from gemcore.text.decoding import DecodingData, IncrementalDecoder, Pieces, Spelling, read_spelling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenizers import Tokenizer as Backend

    from gemcore.models.checkpoint import TextData


def load_backend(tokenizer_json: str) -> Backend:
    """The library's tokenizer of a `tokenizer.json`, which neither cuts nor pads.

    Raises FormatError when the file is not valid.
    """
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_str(tokenizer_json)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of Rust code is no Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise FormatError(f"the tokenizer file is not valid: {reason}") from error
    # Most of what parsing took is free again.
    return_free_memory()
    # A file may ask for cut or padded texts, which suits training only.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_decoding(backend: Backend) -> DecodingData:
    decoder = backend.decoder
    added = backend.get_added_tokens_decoder().items()
    return DecodingData(
        added={token_id: (token.content, token.special) for token_id, token in added},
        spelling=None if decoder is None else read_spelling(json.loads(decoder.__getstate__())),
        decoder_kind=type(decoder).__name__,
    )


def _pack(backend: Backend) -> Pieces | None:
    """The texts of all tokens; None where the vocabulary leaves ids out."""
    ids = range(backend.get_vocab_size(with_added_tokens=True))
    with suppress(TypeError):  # an id that is left out has no text
        return Pieces.pack(cast("Iterable[str]", map(backend.id_to_token, ids)))
    return None


@attrs.define(eq=False, kw_only=True, on_setattr=attrs.setters.frozen)
class Tokenizer:
    """A tokenizer, with what its model expects around a text.

    Safe to use from several threads.

    Attributes:
        bos_token, eos_token: text of the special tokens, or None.
        add_bos: `encode_prompt` puts `bos_token` first.
        stop_token_ids: ids that end a generation.
        source: gives the text of the `tokenizer.json`, which is read when it is first needed, and
            again after `release`.
    """

    _backend: Backend | None = attrs.field(
        default=None, repr=False, alias="backend", on_setattr=attrs.setters.NO_OP
    )
    source: Callable[[], str] | None = attrs.field(default=None, repr=False)
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock, repr=False)
    _decoding: DecodingData | None = attrs.field(
        default=None, init=False, repr=False, on_setattr=attrs.setters.NO_OP
    )

    @classmethod
    def from_text_data(
        cls, text: TextData, *, source: Callable[[], str] | None = None
    ) -> Tokenizer:
        """The tokenizer of a checkpoint or a bundle; FormatError when its file is not valid.

        With `source`, `text` need not be kept for the tokenizer's sake.
        """
        return cls(
            backend=load_backend(text.tokenizer_json),
            source=source or (lambda: text.tokenizer_json),
            bos_token=text.bos_token,
            eos_token=text.eos_token,
            add_bos=text.add_bos,
            stop_token_ids=text.stop_token_ids,
        )

    @classmethod
    def from_json(cls, tokenizer_json: str) -> Tokenizer:
        """A tokenizer from the text of a `tokenizer.json`; FormatError when it is not valid."""
        return cls(backend=load_backend(tokenizer_json), source=lambda: tokenizer_json)

    def release(self) -> None:
        """Give back the memory of what encodes; the next text to encode takes a moment to load it again.

        Tokens are decoded as before, from a small table. Nothing happens where there is no `source`, or
        where the vocabulary leaves ids out.
        """
        with self._lock:
            if self._backend is None or self.source is None:
                return
            # First the table, then away with what it is made from: others may be decoding.
            if self.decoding_data().pieces is not None:
                self._backend = None
        return_free_memory()

    def decoding_data(self) -> DecodingData:
        """All that decoding needs, with the texts of the vocabulary unless that leaves ids out."""
        decoding = self._known()
        if decoding.pieces is None:
            decoding = attrs.evolve(decoding, pieces=_pack(self._loaded()))
            self._decoding = decoding
        return decoding

    def use_decoding_data(self, decoding: DecodingData) -> None:
        """Take what the same tokenizer gave in another process, so that nothing is loaded to decode."""
        self._decoding = decoding

    def _known(self) -> DecodingData:
        decoding = self._decoding
        if decoding is None:
            decoding = self._decoding = _read_decoding(self._loaded())
        return decoding

    def _loaded(self) -> Backend:
        backend = self._backend
        if backend is None:
            assert self.source is not None
            backend = self._backend = load_backend(self.source())
        return backend

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._loaded().get_vocab_size(with_added_tokens=True))

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Text of every control token, such as `<|im_start|>`, in order of id."""
        return tuple(
            content for _, (content, special) in sorted(self._known().added.items()) if special
        )

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it, or None."""
        found = self._loaded().token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; nothing is added before or after it.

        With `special`, control tokens written in the text, such as `<|im_start|>`, become those
        tokens: right for a rendered chat template. Without it they stay ordinary text: right for
        whatever a user wrote. Tokens that are added but not control tokens are found either way.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # Also what a command line argument that is not valid UTF-8 comes as.
            raise UsageError(
                f"the text cannot be written as UTF-8: character {error.start} is half of a "
                "surrogate pair"
            ) from error
        with self._lock:
            backend = self._loaded()
            backend.encode_special_tokens = not special
            return list(backend.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a user's text that is no chat, after `bos_token` where one is expected."""
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

    def incremental_decoder(self, *, special: bool = False) -> IncrementalDecoder:
        """A decoder for tokens that come one by one; control tokens are left out unless `special`."""
        spelling = self._known_spelling()
        bytes_of = functools.partial(self._bytes_of, spelling, special)
        return IncrementalDecoder(bytes_of, spelling.leading_spaces)

    def _known_spelling(self) -> Spelling:
        decoding = self._known()
        if decoding.spelling is None:
            raise FormatError(
                f"the tokenizer's decoder {decoding.decoder_kind} cannot be used to generate text; "
                "supported: ByteLevel, Metaspace, and sequences of Replace, ByteFallback, Fuse "
                "and Strip"
            )
        return decoding.spelling

    def _bytes_of(self, spelling: Spelling, special: bool, token_id: int) -> bytes:
        decoding = self._known()
        added = decoding.added.get(token_id)
        if added is not None:
            content, is_control = added
            return content.encode() if special or not is_control else b""
        pieces = decoding.pieces
        token = pieces[token_id] if pieces else self._loaded().id_to_token(token_id)
        # Embeddings are often padded beyond the vocabulary; those rows have no text.
        return spelling.to_bytes(token) if token else b""
