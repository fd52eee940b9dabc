"""What a model is, as numbers: the shape of a Llama-family decoder."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import attrs
from attrs import validators

from gemcore.errors import FormatError
from gemcore.schemes import TILE


def _integers(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


_positive = [validators.instance_of(int), validators.gt(0)]


@attrs.frozen(kw_only=True)
class ModelConfig:
    """Shape of a Llama-family decoder (RMSNorm, RoPE, grouped-query attention, SwiGLU).

    Attributes:
        vocabulary_size: rows of the embedding and of the output head.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward block.
        layers: number of decoder layers.
        heads: query heads; a multiple of `kv_heads`.
        kv_heads: key and value heads.
        head_dim: width of one head; even, for RoPE turns pairs.
        context_length: the most tokens that the model was trained to attend to.
        rope_theta: RoPE base (RoFormer, arXiv 2104.09864).
        norm_epsilon: added to the mean square in RMSNorm (arXiv 1910.07467).
        tied_head: the output head is the embedding, transposed.
        qkv_bias: query, key and value projections have a bias (Qwen2).
        architecture: family name as the file gives it, for reports ("llama", "qwen2").
        vocabulary_bands: first rows of the bands that embedding and head are stored in, without the 0 of
            the first band; empty where each is one weight. A plan may ask for it.
    """

    vocabulary_size: int = attrs.field(validator=_positive)
    hidden_size: int = attrs.field(validator=_positive)
    intermediate_size: int = attrs.field(validator=_positive)
    layers: int = attrs.field(validator=_positive)
    heads: int = attrs.field(validator=_positive)
    kv_heads: int = attrs.field(validator=_positive)
    head_dim: int = attrs.field(validator=_positive)
    context_length: int = attrs.field(validator=_positive)
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    tied_head: bool = True
    qkv_bias: bool = False
    architecture: str = "llama"
    vocabulary_bands: tuple[int, ...] = attrs.field(default=(), converter=_integers)

    def __attrs_post_init__(self) -> None:
        rows = (0, *self.vocabulary_bands, self.vocabulary_size)
        whole = all(row % TILE == 0 for row in self.vocabulary_bands)
        if not whole or any(a >= b for a, b in pairwise(rows)):
            raise FormatError(
                f"bands of the vocabulary must begin at ascending multiples of {TILE} below its size "
                f"{self.vocabulary_size}, not at {list(self.vocabulary_bands)}"
            )
        if self.heads % self.kv_heads:
            raise FormatError(
                f"query heads ({self.heads}) must be a multiple of key-value heads ({self.kv_heads})"
            )
        if self.head_dim % 2:
            raise FormatError(f"head width ({self.head_dim}) must be even: RoPE turns pairs")

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """Read what `to_json` wrote; unknown or missing names raise FormatError."""
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise FormatError(f"model configuration is not valid: {error}") from error


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this shape must hold, by its Hugging Face name.

    Linear weights are `[out, in]`, as in torch. `lm_head.weight` is there only without a tied head.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocabulary_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tied_head:
        shapes["lm_head.weight"] = (config.vocabulary_size, hidden)
    for i in range(config.layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            shapes[f"{layer}.self_attn.{name}.weight"] = (rows, hidden)
            if config.qkv_bias:
                shapes[f"{layer}.self_attn.{name}.bias"] = (rows,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, queries)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{layer}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
    return shapes
