"""Text to the token ids that a sentence encoder reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from gemcore.errors import FormatError
from gemcore.text.tokenizer import load_backend

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


@attrs.define(eq=False, kw_only=True)
class EncoderTokenizer:
    """A tokenizer that puts around a text what its file says, such as `[CLS]` and `[SEP]`, and cuts it.

    Safe to use from several threads.

    Attributes:
        source: gives the text of the `tokenizer.json`, which is read when it is first needed.
        longest: the most tokens, those around the text included.
    """

    source: Callable[[], str] = attrs.field(repr=False)
    longest: int
    _backend: Backend | None = attrs.field(default=None, init=False, repr=False)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock, repr=False)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, at least one; control tokens that are written in it stay ordinary text.

        Raises FormatError when the file is not valid, or adds more tokens than fit.
        """
        with self._lock:
            ids = list(self._loaded().encode(text).ids)
        if not ids:
            raise FormatError("the tokenizer of the prior's encoder gives no token for this text")
        return ids

    def _loaded(self) -> Backend:
        if self._backend is None:
            backend = load_backend(self.source())
            added = backend.num_special_tokens_to_add(False)
            if added > self.longest:
                raise FormatError(
                    f"the tokenizer of the prior's encoder cannot cut texts to {self.longest} "
                    f"tokens: it adds {added} of its own"
                )
            backend.enable_truncation(self.longest)
            backend.encode_special_tokens = True
            self._backend = backend
        return self._backend
