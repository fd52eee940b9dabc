"""What the parts of a comparison tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@attrs.frozen(kw_only=True)
class Model:
    """One model, in every form that a system may ask for.

    Attributes:
        name: what GEM calls it.
        identity: SHA-256 of its content.
        vocabulary_size: token ids are below it.
        context_length: the most tokens that it was trained to attend to.
        folder: Hugging Face folder of its weights in float32.
        gguf: the file that the weights come from, where it is a GGUF file.
        work: folder for what else is made of it.
    """

    name: str
    identity: str
    vocabulary_size: int
    context_length: int
    folder: Path = attrs.field(converter=Path)
    gguf: Path | None = attrs.field(converter=attrs.converters.optional(Path))
    work: Path = attrs.field(converter=Path)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = attrs.asdict(self)
        return {n: str(v) if isinstance(v, Path) else v for n, v in values.items()}


@attrs.frozen(kw_only=True)
class LoadRequest:
    """How an engine is to be opened.

    Attributes:
        model: the weights.
        threads: how many threads compute.
        context: tokens that must fit at the least.
        purpose: `speed`, where logits of the last token are all that will be wanted, or `quality`,
            where those of every token are.
        options: what the system's name stands for, such as the file type of llama.cpp.
        prepared: what `prepare` returned.
    """

    model: Model
    threads: int
    context: int
    purpose: str
    options: Mapping[str, Any]
    prepared: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LoadRequest:
        """Read what `to_json` wrote."""
        return cls(**{**values, "model": Model(**values["model"])})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**attrs.asdict(self, recurse=False), "model": self.model.to_json()}


@attrs.frozen(kw_only=True)
class Timing:
    """One prompt, read and continued.

    Attributes:
        ttft: seconds from the prompt's tokens to the first generated token.
        decode: seconds from the first generated token to the last.
    """

    prompt_tokens: int
    new_tokens: int
    ttft: float
    decode: float

    @property
    def prefill_speed(self) -> float:
        """Tokens of the prompt a second."""
        return self.prompt_tokens / self.ttft

    @property
    def decode_speed(self) -> float:
        """Generated tokens a second, the first left out."""
        return (self.new_tokens - 1) / self.decode


class Engine(Protocol):
    """A loaded model of one system.

    Attributes:
        versions: of what does the work.
        settings: the choices that were made for it, for the report.
    """

    versions: Mapping[str, str]
    settings: Mapping[str, Any]

    def begin(self, context: int) -> None:
        """Forget all tokens; the next ones, at most `context`, start a new text."""

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the text: logits after the last token, float32 `[vocabulary]`."""

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token of a new text: float32 `[tokens, vocabulary]`."""
