"""Text that appears while it is generated, cut at stop strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from gemcore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gemcore.text.decoding import IncrementalDecoder
    from gemcore.text.tokenizer import Tokenizer


def first_stop(text: str, stops: Iterable[str]) -> int | None:
    """Where the stop string that is complete first begins in `text`, or None.

    Of two that become complete at the same character, the one that begins earlier counts, so the
    answer does not depend on how the text is cut into tokens.

    >>> first_stop("one END", ["END", "E"])
    4
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def possible_start(text: str, stops: Iterable[str]) -> int:
    """Length of the longest end of `text` with which a stop string might be starting.

    >>> possible_start("one EN", ["END"])
    2
    """
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


def _as_tuple(stops: Iterable[str]) -> tuple[str, ...]:
    return tuple(stops)


def _check_stops(instance: object, attribute: object, stops: tuple[str, ...]) -> None:
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise UsageError(f"stop strings {list(stops)} must be texts of at least one character")


@attrs.define(eq=False)
class TextStream:
    """Turns generated token ids into pieces of text for the screen.

    A piece never splits a character, and text with which a stop string might be starting is held
    back. Joined, the pieces are the decoded ids, up to the first stop string. The work for one
    token does not grow with the text: only the held back end is looked at.

    >>> from tokenizers import Tokenizer as Backend, decoders, models
    >>> from gemcore.text.tokenizer import Tokenizer
    >>> backend = Backend(models.BPE({"h": 0, "i": 1, "!": 2}, []))
    >>> backend.decoder = decoders.ByteLevel()
    >>> stream = TextStream(Tokenizer(backend=backend), stops=("!",))
    >>> stream.push(0), stream.push(1), stream.push(2), stream.stopped
    ('h', 'i', '', True)

    Attributes:
        stops: stop strings; they are not part of the text.
        stopped: a stop string was met; all further pieces are empty.
    """

    _tokenizer: Tokenizer
    stops: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple, validator=_check_stops)
    stopped: bool = attrs.field(default=False, init=False)
    _held: str = attrs.field(default="", init=False)
    _decoder: IncrementalDecoder = attrs.field(init=False)

    @_decoder.default
    def _make_decoder(self) -> IncrementalDecoder:
        return self._tokenizer.incremental_decoder()

    def push(self, token_id: int) -> str:
        """The text that can be shown after this token; may be empty."""
        return "" if self.stopped else self._show(self._decoder.push(token_id))

    def finish(self) -> str:
        """The rest of the text, once no more tokens come."""
        if self.stopped:
            return ""
        shown = self._show(self._decoder.finish())
        shown, self._held = shown + self._held, ""
        return shown

    def _show(self, text: str) -> str:
        text = self._held + text
        end = first_stop(text, self.stops)
        if end is not None:
            self.stopped, self._held = True, ""
            return text[:end]
        cut = len(text) - possible_start(text, self.stops)
        self._held = text[cut:]
        return text[:cut]
