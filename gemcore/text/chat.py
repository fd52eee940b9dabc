"""Chats to the text, and the token ids, that a model was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import attrs
from jinja2.exceptions import TemplateError, TemplateSyntaxError

from gemcore.errors import FormatError, UsageError, unknown_name
from gemcore.text.sandbox import TemplateEnvironment

if TYPE_CHECKING:
    from gemcore.models.checkpoint import TextData
    from gemcore.text.tokenizer import Tokenizer

ROLES = ("assistant", "system", "tool", "user")

# Unicode says that these two are never characters of a text, so they can mark places in one.
_MARK_START, _MARK_END = "\ufdd0", "\ufdd1"


class Message(TypedDict):
    """One turn of a chat; `role` is one of `ROLES`."""

    role: str
    content: str


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Copy the messages; UsageError unless each has a known role, and text as its content.

    >>> check_messages([{"role": "usr", "content": "Hi"}])
    Traceback (most recent call last):
    gemcore.errors.UsageError: unknown role 'usr': did you mean 'user'? Available: assistant, ...
    """
    if not messages:
        raise UsageError("a chat needs at least one message")
    checked = []
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            found = sorted(map(str, message)) if isinstance(message, Mapping) else type(message)
            raise UsageError(f"message {place} must have a role and a content, not {found}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise unknown_name("role", str(role), ROLES)
        if not isinstance(content, str):
            kind = type(content).__name__
            raise UsageError(f"the content of message {place} is {kind}: it must be text")
        checked.append(Message(role=str(role), content=str(content)))
    return checked


@attrs.frozen(kw_only=True)
class ChatTemplate:
    """A model's chat template, rendered in a sandbox as transformers renders it.

    Attributes:
        source: Jinja source, or None: then `render` and `encode` raise UsageError.
        bos_token, eos_token: what the template may write by these names.
    """

    source: str | None = attrs.field(repr=False)
    bos_token: str | None = None
    eos_token: str | None = None

    @classmethod
    def from_text_data(cls, text: TextData) -> ChatTemplate:
        """The template of a checkpoint or a bundle."""
        return cls(source=text.chat_template, bos_token=text.bos_token, eos_token=text.eos_token)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The chat as one text, with the opening of the answer unless told otherwise.

        The text is for `Tokenizer.encode(..., special=True)`, which also reads control tokens
        that a message contains; `encode` does not. A template that fails raises FormatError.
        """
        return self._render(check_messages(messages), add_generation_prompt)

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Token ids of the rendered chat.

        The template's own control tokens become those tokens. A control token written inside a
        message stays ordinary text, so that no message can end its turn and speak for another role.
        """
        checked = check_messages(messages)
        pattern = _any_of(tokenizer.control_tokens)
        marked = [
            Message(role=message["role"], content=_mark(message["content"], pattern))
            for message in checked
        ]
        rendered = self._render(marked, add_generation_prompt)
        if _MARK_START not in rendered and _MARK_END not in rendered:
            return tokenizer.encode(rendered, special=True)
        return _encode_marked(tokenizer, rendered, pattern)

    def _render(self, messages: list[Message], add_generation_prompt: bool) -> str:
        if self.source is None:
            raise UsageError(
                "this model has no chat template: use --no-chat to have it continue a plain text"
            )
        variables: dict[str, Any] = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        variables.update({name: text for name, text in tokens.items() if text is not None})
        try:
            return TemplateEnvironment().render_bounded(self.source, variables)
        except TemplateSyntaxError as error:
            raise FormatError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from error
        except TemplateError as error:
            raise FormatError(f"the chat template was stopped: {error}") from error
        except Exception as error:
            # A template is a program: it can fail in any way that Python code can.
            reason = str(error) or type(error).__name__
            raise FormatError(f"the chat template failed: {reason}") from error


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _mark(content: str, control: re.Pattern[str]) -> str:
    # Marks that are in the message already go first, so that none can be forged.
    content = content.replace(_MARK_START, "").replace(_MARK_END, "")
    return control.sub(lambda found: f"{_MARK_START}{found[0]}{_MARK_END}", content)


def _encode_marked(tokenizer: Tokenizer, rendered: str, control: re.Pattern[str]) -> list[int]:
    """Ids of a rendered chat: unmarked control tokens as themselves, all the rest as plain text."""
    marked = re.compile(
        f"{_MARK_START}(?P<text>{control.pattern}){_MARK_END}|(?P<token>{control.pattern})"
    )
    ids: list[int] = []
    plain: list[str] = []

    def take_plain() -> None:
        text = "".join(plain).replace(_MARK_START, "").replace(_MARK_END, "")
        ids.extend(tokenizer.encode(text, special=False))
        plain.clear()

    end = 0
    for found in marked.finditer(rendered):
        plain.append(rendered[end : found.start()])
        end = found.end()
        if found["text"] is not None:
            plain.append(found["text"])
            continue
        take_plain()
        token_id = tokenizer.token_id(found["token"])
        ids.extend([] if token_id is None else [token_id])
    plain.append(rendered[end:])
    take_plain()
    return ids
