"""Which tensors of a checkpoint make up each weight of the decoder.

Projections that read the same input are one weight, so that their input is read and rounded once:
`qkv` stacks the rows of q, k and v; `gate_up` those of gate and up.
"""

from __future__ import annotations

from itertools import pairwise

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.models.config import ModelConfig, expected_shapes

EMBEDDING = "embedding"
HEAD = "head"


@attrs.frozen(kw_only=True)
class WeightUnit:
    """One linear weight of the decoder `[out, in]`, stacked from one or more checkpoint tensors.

    Attributes:
        name: module path in the decoder, for example `layers.3.attention.qkv`.
        sources: Hugging Face names of the tensors, in order of their rows.
        shape: `(out, in)` of the unit.
        rows: the first row of the stack, and the one behind the last, that the unit holds; None for all.
        bias_sources: names of the biases, in the same order; empty without bias.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, int]
    bias_sources: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


def weight_units(config: ModelConfig) -> tuple[WeightUnit, ...]:
    """Every linear weight of the decoder, embedding first, head last.

    With a tied head there is no `head` unit: the embedding serves as both. Where the vocabulary has
    bands, each band of embedding and head is a unit: `embedding.0`, `embedding.1` and so on.
    """
    shapes = expected_shapes(config)

    def unit(name: str, parent: str, parts: tuple[str, ...], bias: bool = False) -> WeightUnit:
        sources = tuple(f"{parent}{part}.weight" for part in parts)
        rows = sum(shapes[source][0] for source in sources)
        return WeightUnit(
            name=name,
            sources=sources,
            shape=(rows, shapes[sources[0]][1]),
            bias_sources=tuple(f"{parent}{part}.bias" for part in parts) if bias else (),
        )

    def bands(whole: WeightUnit) -> list[WeightUnit]:
        rows = pairwise((0, *config.vocabulary_bands, config.vocabulary_size))
        if not config.vocabulary_bands:
            return [whole]
        return [
            attrs.evolve(
                whole,
                name=f"{whole.name}.{i}",
                shape=(end - start, whole.shape[1]),
                rows=(start, end),
            )
            for i, (start, end) in enumerate(rows)
        ]

    units = bands(unit(EMBEDDING, "model.", ("embed_tokens",)))
    for i in range(config.layers):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        attention, mlp = theirs + "self_attn.", theirs + "mlp."
        qkv = ("q_proj", "k_proj", "v_proj")
        units.append(unit(ours + "attention.qkv", attention, qkv, bias=config.qkv_bias))
        units.append(unit(ours + "attention.out", attention, ("o_proj",)))
        units.append(unit(ours + "feed_forward.gate_up", mlp, ("gate_proj", "up_proj")))
        units.append(unit(ours + "feed_forward.down", mlp, ("down_proj",)))
    if not config.tied_head:
        units += bands(unit(HEAD, "", ("lm_head",)))
    return tuple(units)


def vocabulary_weight(name: str) -> str | None:
    """`embedding` or `head`, where a unit is that or a band of it; else None.

    >>> vocabulary_weight("head.2"), vocabulary_weight("layers.0.attention.out")
    ('head', None)
    """
    whole = name.partition(".")[0]
    return whole if whole in (EMBEDDING, HEAD) else None


def units_of(config: ModelConfig, whole: str) -> list[WeightUnit]:
    """The bands of the embedding or of the head, or the one unit that it is."""
    return [unit for unit in weight_units(config) if vocabulary_weight(unit.name) == whole]


def norm_sources(config: ModelConfig) -> dict[str, str]:
    """Decoder name of each norm gain to its Hugging Face name."""
    gains = {"norm.gain": "model.norm.weight"}
    for i in range(config.layers):
        ours, theirs = f"layers.{i}", f"model.layers.{i}"
        gains[f"{ours}.attention_norm.gain"] = f"{theirs}.input_layernorm.weight"
        gains[f"{ours}.feed_forward_norm.gain"] = f"{theirs}.post_attention_layernorm.weight"
    return gains


def rotation_table(config: ModelConfig) -> npt.NDArray[np.float32]:
    """RoPE's cosines, then sines, of every position: float32 `[context, head_dim]`."""
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.power(np.float32(config.rope_theta), half)
    angles = np.outer(np.arange(config.context_length, dtype=np.float32), frequencies)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
