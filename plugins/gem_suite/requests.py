"""What is asked of a model, and what it answers: the seam between benchmarks and engines."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["likelihood", "generate", "text"]


@attrs.frozen(kw_only=True)
class Request:
    """One item, as it is put to a model.

    Attributes:
        kind: "likelihood": only `pairs` are scored. "generate": a text is generated from `prompt`,
            and `pairs` (of the reference) are scored. "text": the whole of `text` is scored.
        pairs: (context, continuation); wanted is the log-likelihood of every continuation given its
            context. Many share long beginnings of their contexts, and some are equal.
        prompt: what generation continues.
        stop: generation ends before the first of these.
        max_tokens: generation ends after so many tokens.
        text: what is scored as a whole.
        system: the beginning of every context and of `prompt` that describes the task. With a chat
            template it becomes the system message, the rest of the context the user's message.
        delimiter: what every continuation begins with; dropped where an assistant's turn begins.
    """

    kind: Kind
    pairs: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int = 0
    text: str = ""
    system: str = ""
    delimiter: str = " "


@attrs.frozen(kw_only=True)
class Outcome:
    """A model's answer to a `Request`.

    Attributes:
        likelihoods: log-likelihood in nats of each pair, in order; of a "text" request, one number
            for the whole text.
        text: what was generated, without the stop string.
    """

    likelihoods: tuple[float, ...] = ()
    text: str = ""


def digest(requests: Iterable[Request]) -> str:
    """SHA-256, in hexadecimal, of the requests of a task: equal prompts have equal digests."""
    sha = hashlib.sha256()
    for request in requests:
        sha.update(json.dumps(attrs.asdict(request), sort_keys=True).encode())
        sha.update(b"\n")
    return sha.hexdigest()
