"""The same model in other axes: gains folded into the weights, the residual stream turned at random.

An RMS norm without a gain commutes with a rotation `Q` of its input, so every weight that reads the residual
stream may read `x·Q`, and every weight that writes it write `y·Q`: nothing that the model computes changes
(SliceGPT, arXiv 2401.15024; QuaRot, arXiv 2404.00456). Weights that are turned so look like Gaussian noise.
A file's own quantization leaves no trace in them, so that no quantizer's grid is favoured.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.models.checkpoint import Checkpoint, StoredTensor

Floats = npt.NDArray[np.float32]

_EMBEDDING, _HEAD, _NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_READERS = {
    "q_proj": "input_layernorm",
    "k_proj": "input_layernorm",
    "v_proj": "input_layernorm",
    "gate_proj": "post_attention_layernorm",
    "up_proj": "post_attention_layernorm",
}
"""Weights that read the residual stream, and the norm before them."""

_WRITERS = ("o_proj", "down_proj")


def rotated(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """A checkpoint of the same function whose residual stream is rotated and whose norms have no gain.

    The head gets weights of its own, since the last norm's gain is folded into it alone. Tensors are turned
    when they are read, so the new checkpoint takes no memory.
    """
    size = checkpoint.config.hidden_size
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    names = list(checkpoint.tensors)
    if _HEAD not in checkpoint.tensors:
        names.append(_HEAD)
    return attrs.evolve(
        checkpoint,
        name=f"{checkpoint.name}, rotated",
        config=attrs.evolve(checkpoint.config, tied_head=False),
        tensors={name: _tensor(checkpoint, name, turn) for name in names},
        identity=hashlib.sha256(f"{checkpoint.identity} rotated {seed}".encode()).hexdigest(),
    )


def _tensor(checkpoint: Checkpoint, name: str, turn: npt.NDArray[np.float64]) -> StoredTensor:
    """One tensor of the rotated model, float32."""
    source = checkpoint.tensors[name if name in checkpoint.tensors else _EMBEDDING]
    decode = partial(_turned, checkpoint, source, name, turn)
    return StoredTensor(
        name=name, shape=source.shape, encoding="F32", data=source.data, decode=decode
    )


def _turned(
    checkpoint: Checkpoint,
    source: StoredTensor,
    name: str,
    turn: npt.NDArray[np.float64],
    data: npt.NDArray[Any],
) -> Floats:
    values = source.decode(data).reshape(source.shape)
    part = name.split(".")[-2]
    if len(values.shape) == 1:
        # Biases lie behind the readers, where nothing is turned.
        return np.ones_like(values) if part.endswith("norm") else values
    if part in _WRITERS:
        return (turn.T @ values.astype(np.float64)).astype(np.float32)
    gain = None
    if name == _HEAD:
        gain = checkpoint.tensors[_NORM]
    elif part in _READERS:
        layer = name.split(".self_attn.", maxsplit=1)[0].split(".mlp.", maxsplit=1)[0]
        gain = checkpoint.tensors[f"{layer}.{_READERS[part]}.weight"]
    wide = values.astype(np.float64)
    if gain is not None:
        wide *= gain.to_float32()
    return (wide @ turn).astype(np.float32)
