"""From a GGUF file's metadata to a ModelConfig, with every value checked for type and range."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from gemcore.errors import FormatError
from gemcore.models.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gemcore.formats.gguf_header import GgufTensor

_LARGEST = 1 << 31
# Norms, q, k, v, output, gate, up and down: what each layer needs at least.
_TENSORS_A_LAYER = 9


@attrs.frozen
class Architecture:
    """What differs between the families that GGUF files may hold.

    Attributes:
        permutes_rows: rows of queries and keys are stored in the order of interleaved RoPE.
    """

    permutes_rows: bool


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {"llama": Architecture(permutes_rows=True), "qwen2": Architecture(permutes_rows=False)}
)
"""Supported values of `general.architecture`."""


def config_from_metadata(
    metadata: Mapping[str, Any], tensors: Sequence[GgufTensor], path: Path
) -> ModelConfig:
    """Read the shape of the model.

    Args:
        metadata: values by key, from a checked header.
        tensors: of the same header; they say whether the head is tied and projections have biases.
        path: the file, for messages.

    Raises:
        FormatError: a value is missing, of a wrong type or out of range, or asks for something
            that GEM cannot do; doing it approximately would give quietly wrong text.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise FormatError(
            f"{path} holds a model of architecture {architecture!r}; supported are {supported}"
        )
    values = _Values(metadata, architecture, path)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    _refuse_unsupported(values, shapes)
    layers = values.integer("block_count")
    if layers * _TENSORS_A_LAYER > len(tensors):
        values.fail(f"claims {layers} layers, but has only {len(tensors)} tensors")
    heads = values.integer("attention.head_count")
    hidden = values.integer("embedding_length")
    head_dim = values.integer("attention.key_length", _head_width(hidden, heads))
    if values.integer("attention.value_length", head_dim) != head_dim:
        values.fail("has keys and values of different widths, which is not supported")
    rotated = values.integer("rope.dimension_count", head_dim)
    if rotated != head_dim:
        values.fail(
            f"turns only {rotated} of {head_dim} dimensions of a head by RoPE; partial RoPE is "
            "not supported"
        )
    return _checked(
        path,
        vocabulary_size=_vocabulary_size(values, shapes),
        hidden_size=hidden,
        intermediate_size=values.integer("feed_forward_length"),
        layers=layers,
        heads=heads,
        kv_heads=values.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        context_length=values.integer("context_length"),
        rope_theta=values.positive("rope.freq_base", 10000.0),
        norm_epsilon=values.positive("attention.layer_norm_rms_epsilon"),
        tied_head="output.weight" not in shapes,
        qkv_bias="blk.0.attn_q.bias" in shapes,
        architecture=architecture,
    )


def _checked(path: Path, **values: Any) -> ModelConfig:
    try:
        return ModelConfig(**values)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _head_width(hidden: int, heads: int) -> int | None:
    return hidden // heads if hidden % heads == 0 else None


def _vocabulary_size(values: _Values, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The embedding's rows; a vocabulary may be padded, but not larger than they are."""
    embedding = shapes.get("token_embd.weight")
    if embedding is None:
        values.fail("lacks the tensor token_embd.weight")
    tokens = values.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        values.fail("lacks its vocabulary, the metadata key tokenizer.ggml.tokens")
    if len(tokens) > embedding[0]:
        values.fail(f"has {len(tokens)} tokens, but embeddings for only {embedding[0]}")
    return embedding[0]


def _refuse_unsupported(values: _Values, shapes: Mapping[str, tuple[int, ...]]) -> None:
    pieces = values.metadata.get("split.count", 1)
    if pieces not in (0, 1):
        values.fail(f"is one of {pieces} pieces of a model; join them with llama-gguf-split first")
    scaling = values.get("rope.scaling.type") or "none"
    factor = values.get("rope.scale_linear") or 1.0
    if scaling != "none" or factor != 1.0:
        values.fail(f"uses RoPE scaling ({scaling}, {factor}), which is not supported")
    if "rope_freqs.weight" in shapes:
        values.fail("uses RoPE scaling (the tensor rope_freqs.weight), which is not supported")
    if values.get("expert_count"):
        values.fail("is a mixture of experts, which is not supported")
    if values.get("attention.sliding_window"):
        values.fail("uses sliding-window attention, which is not supported")


class _Values:
    """Metadata of one architecture, read with checks."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str, path: Path) -> None:
        self.metadata = metadata
        self.architecture = architecture
        self.path = path

    def fail(self, reason: str) -> NoReturn:
        raise FormatError(f"{self.path} {reason}")

    def get(self, name: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{name}")

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            # Head counts may be given layer by layer.
            value = value[0]
        if value is None:
            value = default
        if type(value) is not int or not 0 < value < _LARGEST:
            self._refuse(name, value, f"a whole number from 1 to {_LARGEST - 1}")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        if value is None:
            value = default
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value <= 0
        ):
            self._refuse(name, value, "a positive number")
        return float(value)

    def _refuse(self, name: str, value: Any, wanted: str) -> NoReturn:
        key = f"{self.architecture}.{name}"
        if value is None:
            self.fail(f"lacks the metadata key {key}")
        shown = repr(value)
        self.fail(f"has {key} = {shown[:40]}{'…' * (len(shown) > 40)}; it must be {wanted}")
