"""Chats to the text, and the token ids, that a model was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

import attrs

from gemcore.errors import FormatError, UsageError, unknown_name

if TYPE_CHECKING:
    from gemcore.models.checkpoint import TextData
    from gemcore.text.tokenizer import Tokenizer

ROLES = ("assistant", "system", "tool", "user")

# Unicode says that this is never a character of a text, so it can mark a place in one.
_MARK = "\ufdd0"


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
            found = sorted(map(str, message)) if isinstance(message, Mapping) else repr(message)
            raise UsageError(f"message {place} must have a role and a content, not {found}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise unknown_name("role", str(role), ROLES)
        if not isinstance(content, str):
            kind = type(content).__name__
            raise UsageError(f"the content of message {place} is {kind}: it must be text")
        # In the order they came in: a template may show a message as JSON.
        checked.append(cast("Message", {key: str(message[key]) for key in message}))
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
        control = "|".join(map(re.escape, _longest_first(tokenizer.control_tokens))) or "(?!)"
        checked = check_messages(messages)
        for message in checked:
            message["content"] = _broken(message["content"], control)
        rendered = self._render(checked, add_generation_prompt)
        if _MARK not in rendered:
            return tokenizer.encode(rendered, special=True)
        return _encode_marked(tokenizer, rendered, control)

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
        from jinja2.exceptions import TemplateError, TemplateSyntaxError

        from gemcore.text.sandbox import TemplateEnvironment

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


def _longest_first(tokens: Sequence[str]) -> list[str]:
    return sorted(filter(None, tokens), key=len, reverse=True)


def _broken(content: str, control: str) -> str:
    """The content with a mark inside each control token, after its first character.

    A mark inside, unlike one around, also holds when the template cuts the content into pieces.
    """
    # Marks that are there already go first; then every start of a token is found, nested ones too.
    content = content.replace(_MARK, "")
    return re.sub(f"(?={control})(.)", rf"\1{_MARK}", content, flags=re.DOTALL)


def _encode_marked(tokenizer: Tokenizer, rendered: str, control: str) -> list[int]:
    """Ids of a rendered chat: whole control tokens as themselves, all the rest as plain text."""
    ids: list[int] = []
    for place, part in enumerate(re.split(f"({control})", rendered)):
        token_id = tokenizer.token_id(part) if place % 2 else None
        if token_id is None:
            ids.extend(tokenizer.encode(part.replace(_MARK, ""), special=False))
        else:
            ids.append(token_id)
    return ids
