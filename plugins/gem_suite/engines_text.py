"""Texts as token ids, by the conventions of lm-evaluation-harness, so that scores can be compared.

Where a text is longer than the model's context, its beginning is left out, as lm-eval does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from gemcore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gem_suite.engines import Engine
    from gemcore.text.tokenizer import Tokenizer

Ids = tuple[int, ...]
TokenPair = tuple[Ids, Ids]
"""Ids of a context, at least one, and of its continuation."""


@attrs.frozen(kw_only=True)
class Encoder:
    """Turns texts into what an engine scores or continues.

    Attributes:
        engine: whose tokenizer, chat template and context length are used.
        chat: contexts and prompts become the user's message, and continuations the beginning of the
            answer.
    """

    engine: Engine
    chat: bool = False

    def pair(
        self, context: str, continuation: str, system: str = "", delimiter: str = ""
    ) -> TokenPair:
        """Ids of a context and of its continuation, of any length.

        Args:
            context: what is read before, `system` included.
            continuation: what is scored.
            system: the beginning of the context that becomes a chat's system message.
            delimiter: the beginning of the continuation that is left out in a chat.
        """
        if self.chat:
            messages = chat_messages(context, system)
            read = self.engine.template.encode(self.engine.tokenizer, messages)
            said = self.engine.tokenizer.encode(continuation.removeprefix(delimiter), special=False)
            return tuple(read), tuple(said)
        return encode_pair(self.engine.tokenizer, context, continuation)

    def text(self, text: str) -> list[TokenPair]:
        """Pairs whose log-likelihoods add up to that of a whole text, the first token included."""
        ids = self.engine.tokenizer.encode(text, special=False)
        start = first_token(self.engine.tokenizer)
        return list(windows(ids, start, self.engine.context_length))

    def prompt(self, prompt: str, system: str, max_tokens: int) -> tuple[Ids, bool]:
        """Ids of a prompt that leave room for `max_tokens`, and whether its beginning was left out."""
        if self.chat:
            messages = chat_messages(prompt, system)
            ids = self.engine.template.encode(self.engine.tokenizer, messages)
        else:
            ids = self.engine.tokenizer.encode_prompt(prompt)
        room = max(1, self.engine.context_length - max_tokens)
        return tuple(ids[-room:] or [first_token(self.engine.tokenizer)]), len(ids) > room


def chat_messages(context: str, system: str) -> list[dict[str, str]]:
    """A context as the messages of a chat: the task in words, if there are any, and the rest."""
    messages = [{"role": "system", "content": system.strip()}] if system.strip() else []
    return [*messages, {"role": "user", "content": context.removeprefix(system)}]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> TokenPair:
    """Ids of a context and of what follows it, divided as in lm-eval's `_encode_pair`.

    Spaces at the end of the context go to the continuation, and the two are encoded as one text; the
    continuation's ids are those beyond as many as the context alone has. Nothing but spaces before
    the continuation is as good as the token that begins a text.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    if not kept:
        ids = tokenizer.encode(continuation, special=False)
        start = first_token(tokenizer)
        # As in lm-eval: a text that begins with this token anyway does not get it twice.
        return ((start,), tuple(ids[1:] if ids[:1] == [start] and ids[1:] else ids))
    if not continuation:
        return tuple(tokenizer.encode_prompt(kept)), ()
    whole = tokenizer.encode_prompt(kept + continuation)
    # A continuation that melts into the context's last token still has that one.
    length = min(len(tokenizer.encode_prompt(kept)), max(1, len(whole) - 1))
    return tuple(whole[:length]), tuple(whole[length:])


def first_token(tokenizer: Tokenizer) -> int:
    """The id that stands before a text that has nothing before it: begin of text, or end of text.

    Raises:
        UsageError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token, tokenizer.eos_token):
        found = tokenizer.token_id(token) if token else None
        if found is not None:
            return found
    raise UsageError(
        "the model's tokenizer has no token that begins or ends a text, so the first token of a text "
        "cannot be scored"
    )


def windows(ids: Sequence[int], start: int, length: int) -> Iterator[TokenPair]:
    """Pairs that score every token of a text once, at most `length` tokens read at a time.

    As lm-eval's `get_rolling_token_windows` with a context of one token, made disjoint: each window
    after the first scores the next `length` tokens, and the last one fewer, after more of the text.
    """
    done = min(length, len(ids))
    if done:
        yield (start,), tuple(ids[:done])
    while done < len(ids):
        end = min(done + length, len(ids))
        yield tuple(ids[max(0, end - length - 1) : done]), tuple(ids[done:end])
        done = end


def fit(pair: TokenPair, length: int) -> tuple[TokenPair, bool]:
    """The end of a pair of which `length` tokens are read, and whether its beginning was left out."""
    whole = (*pair[0], *pair[1])
    if len(whole) <= length + 1:
        return pair, False
    kept = whole[-length - 1 :]
    begin = len(kept) - min(len(pair[1]), length)
    return (kept[:begin], kept[begin:]), True
