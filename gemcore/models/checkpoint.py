"""A model as it came from a file: shape, tensors and text data, before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.models.config import ModelConfig


@attrs.frozen(kw_only=True, eq=False)
class StoredTensor:
    """One tensor of a checkpoint, still in the file's own encoding.

    Attributes:
        name: Hugging Face name, for example `model.layers.0.self_attn.q_proj.weight`.
        shape: logical shape, `[out, in]` for a linear weight.
        encoding: GGUF name of the storage type: F32, F16, BF16, Q8_0, Q4_0, Q4_1, ...
        data: the stored values, memory-mapped where the file allows it: float32 or float16 of
            `shape`; uint16 for BF16; uint8 `[rows, bytes a row]` for block encodings.
        decode: turns `data` into float32 of `shape`.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    data: npt.NDArray[Any] = attrs.field(repr=False)
    decode: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]] = attrs.field(repr=False)

    def to_float32(self) -> npt.NDArray[np.float32]:
        """The values, dequantized: float32 of `shape`, a fresh array."""
        return self.decode(self.data).reshape(self.shape)


@attrs.frozen(kw_only=True)
class TextData:
    """What a checkpoint says about text.

    Attributes:
        tokenizer_json: a Hugging Face `tokenizers` file, as text.
        chat_template: Jinja source, or None where the model has none.
        bos_token, eos_token: the special tokens' text, or None.
        add_bos: the model expects `bos_token` before a text that is not a chat.
        stop_token_ids: ids that end a generation (end of text, end of turn).
    """

    tokenizer_json: str = attrs.field(repr=False)
    chat_template: str | None = attrs.field(default=None, repr=False)
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False
    stop_token_ids: tuple[int, ...] = ()


@attrs.frozen(kw_only=True, eq=False)
class Checkpoint:
    """A model read from a source: every tensor that `expected_shapes(config)` names, and its text data.

    Attributes:
        name: what the user called it, for reports.
        identity: a SHA-256 over the content, in hexadecimal: the same model has the same identity.
        licence: SPDX name where the source gives one.
    """

    name: str
    config: ModelConfig
    tensors: Mapping[str, StoredTensor] = attrs.field(repr=False)
    text: TextData
    identity: str
    licence: str | None = None
