"""The decoder as it is trained: float32, in torch, with one expert that always works, or in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gemcore.errors import UsageError
from gemcore.models.decoder import Decoder, ExpertShape, dense_schemes, load_weights
from gemcore.models.layout import weight_units
from gemcore.models.weights import dense_weights

if TYPE_CHECKING:
    from gem_experts.training.sequences import Pass
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.config import ModelConfig

Heads = tuple[Tensor, Tensor, Tensor]


class AlwaysOn(nn.Module):
    """A router whose weights are the prior: here always 1."""

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`prior` `[tokens, experts]` as it is."""
        return prior


def choose_units(config: ModelConfig, layers: tuple[int, int], kinds: Sequence[str]) -> list[str]:
    """Names of the weight units that carry deltas, in the decoder's order.

    Args:
        config: the shape of the model.
        layers: the first layer, and the one after the last.
        kinds: such as `attention.qkv`.

    Raises:
        UsageError: a layer or a kind does not exist.
    """
    first, end = layers
    if not 0 <= first < end <= config.layers:
        raise UsageError(
            f"--layers {first}:{end} does not fit the model: it has {config.layers} layers, so FIRST:END "
            f"must lie within 0:{config.layers}"
        )
    every = [unit.name for unit in weight_units(config)]
    known = sorted({name.split(".", 2)[2] for name in every if name.startswith("layers.")})
    for kind in kinds:
        if kind not in known:
            raise UsageError(f"unknown unit '{kind}': units are {', '.join(known)}")
    wanted = {f"layers.{layer}.{kind}" for layer in range(first, end) for kind in kinds}
    return [name for name in every if name in wanted]


def with_expert(checkpoint: Checkpoint, units: Sequence[str], rank: int, seed: int) -> Decoder:
    """The base model, frozen, with the fresh deltas of one expert.

    `down` is drawn evenly from ±1/sqrt(in) and `up` is zero, so that training starts at the base model
    (LoRA, arXiv 2106.09685).
    """
    shapes = {unit.name: unit.shape for unit in weight_units(checkpoint.config)}
    weights: dict[str, object] = {}
    for name, array in dense_weights(checkpoint).items():
        unit, _, parameter = name.rpartition(".")
        weights[f"{unit}.base.{parameter}" if unit in units else name] = array
    generator = np.random.default_rng(seed)
    for unit in units:
        out, inner = shapes[unit]
        bound = 1 / np.sqrt(inner)
        drawn = generator.uniform(-bound, bound, (1, inner, rank))
        weights[f"{unit}.down"] = drawn.astype(np.float32)
        weights[f"{unit}.up"] = np.zeros((1, rank, out), np.float32)
    first = min(int(unit.split(".")[1]) for unit in units)
    routers = [AlwaysOn() if layer == first else None for layer in range(checkpoint.config.layers)]
    decoder = _new(checkpoint, weights, routers, units, rank)
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(name in {f"{unit}.{end}" for unit in units for end in _FACTORS})
    return decoder


def in_full(checkpoint: Checkpoint) -> Decoder:
    """The base model with every weight to be trained; the rotation table is none."""
    weights: dict[str, object] = dict(dense_weights(checkpoint))
    decoder = _new(checkpoint, weights, (), (), 1)
    decoder.rotation.requires_grad_(False)
    return decoder


def trained(decoder: Decoder) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, each once."""
    return {name: value for name, value in decoder.named_parameters() if value.requires_grad}


def read_pass(decoder: Decoder, made: Pass, *, expert: bool = True) -> Tensor:
    """The final, normed hidden states of a pass's wanted rows: `[rows, hidden]` float32.

    Without `expert` the base model works alone. What lies below the first trained weight leaves nothing
    behind for the backward pass, because nothing there asks for a gradient.
    """
    tokens = torch.from_numpy(made.tokens)
    prior = torch.ones(tokens.numel(), 1) if expert else None
    # Keys and values stay within the pass (see `use_packed_attention`), so caches are only for show.
    nothing = torch.empty(0)
    caches = [(nothing, nothing)] * len(decoder.layers)
    hidden = decoder.hidden(tokens, torch.from_numpy(made.placement), caches, prior)
    normed: Tensor = decoder.norm(hidden.index_select(0, torch.from_numpy(made.rows)))
    return normed


def use_packed_attention(decoder: Decoder) -> None:
    """Let the layers attend within each text of a pass, without a cache.

    `float_ops.attention` looks at all pairs of tokens of a pass and leaves a mask to sort them out, which
    takes as long as all the rest. In training every text is whole within its pass, so each can be given
    to torch's causal kernel alone.
    """
    kv_heads = decoder.config.kv_heads
    append: Callable[..., Heads] = _Rotate(kv_heads)
    for layer in decoder.layers:
        layer.append, layer.attend = append, _attend


class _Rotate:
    """`rope_append` without a cache: rotated queries and keys, and values, `[heads, tokens, width]`."""

    def __init__(self, kv_heads: int) -> None:
        self._kv_heads = kv_heads

    def __call__(
        self,
        qkv: Tensor,
        rotation: Tensor,
        placement: Tensor,
        keys: Tensor,
        values: Tensor,
        heads: int,
    ) -> Heads:
        split = qkv.float().reshape(qkv.shape[0], heads + 2 * self._kv_heads, -1)
        angles = rotation.index_select(0, placement[:, 0])
        cosine, sine = angles[:, None].chunk(2, dim=-1)
        first, second = split[:, : heads + self._kv_heads].chunk(2, dim=-1)
        turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
        turned, kept = turned.transpose(0, 1), split[:, heads + self._kv_heads :].transpose(0, 1)
        return turned[:heads], turned[heads:], kept


def _attend(heads: Heads, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    queries, own_keys, own_values = heads
    repeat = queries.shape[0] // own_keys.shape[0]
    spread = [own_keys.repeat_interleave(repeat, 0), own_values.repeat_interleave(repeat, 0)]
    # Each text's tokens share the slot at which it starts.
    lengths = torch.unique_consecutive(placement[:, 4], return_counts=True)[1].tolist()
    parts = zip(*(part[None].split(lengths, dim=2) for part in (queries, *spread)), strict=True)
    attend = nn.functional.scaled_dot_product_attention
    out = torch.cat([attend(q, k, v, is_causal=True)[0] for q, k, v in parts], dim=1)
    return out.transpose(0, 1).reshape(out.shape[1], -1)


_FACTORS = ("down", "up")


def _new(
    checkpoint: Checkpoint,
    weights: dict[str, object],
    routers: Sequence[nn.Module | None],
    units: Sequence[str],
    rank: int,
) -> Decoder:
    experts = ExpertShape(names=("expert",), rank=rank, layers=frozenset(units))
    with torch.device("meta"):
        decoder = Decoder(
            checkpoint.config,
            dense_schemes(checkpoint.config),
            router=routers,
            experts=experts if units else None,
            float_arithmetic=True,
        )
    load_weights(decoder, weights)
    use_packed_attention(decoder)
    return decoder
