"""The float model, layer by layer: only one layer's weights are in memory at a time."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from gem_hybrid.as_compiled import cache_operations, round_inputs
from gemcore.models import float_ops
from gemcore.models.cache_layout import DEFAULT_CACHE, KEY_BLOCK
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.config import ModelConfig
from gemcore.models.decoder import DecoderLayer, causal_placement, new_caches
from gemcore.models.layout import WeightUnit, rotation_table, units_of, weight_units
from gemcore.models.linear import DenseLinear
from gemcore.models.weights import float_unit, plain_weights

Windows = Sequence[Sequence[int]]


def units_of_layer(config: ModelConfig, index: int) -> list[WeightUnit]:
    """The weight units of one layer, in the order in which a token meets them."""
    prefix = f"layers.{index}."
    return [unit for unit in weight_units(config) if unit.name.startswith(prefix)]


def float_layer(
    checkpoint: Checkpoint,
    index: int,
    weights: Mapping[str, Tensor],
    *,
    rounds: Container[str] = (),
    cache: str | None = None,
) -> DecoderLayer:
    """One decoder layer in float32.

    Args:
        checkpoint: gives norms and biases.
        index: of the layer.
        weights: float32 `[out, in]` of each of its units, by name.
        rounds: names of the units whose inputs are rounded to 8 bits.
        cache: scheme whose rounding keys and values get; None for none.
    """
    plain = plain_weights(checkpoint)
    linears: dict[str, nn.Module] = {}
    for unit in units_of_layer(checkpoint.config, index):
        with torch.device("meta"):
            linear = DenseLinear(unit.shape)
        set_weight(linear, weights[unit.name])
        if unit.bias_sources:
            biases = [checkpoint.tensors[name].to_float32() for name in unit.bias_sources]
            linear.bias = _fixed(torch.cat([torch.from_numpy(bias) for bias in biases]))
        if unit.name in rounds:
            linear.register_forward_pre_hook(round_inputs)
        linears[unit.name] = linear
    operations = float_ops if cache is None else cache_operations()
    layer = DecoderLayer(
        checkpoint.config, index, linears, operations, None, cache or DEFAULT_CACHE
    )
    for norm in ("attention_norm", "feed_forward_norm"):
        gain = torch.from_numpy(plain[f"layers.{index}.{norm}.gain"])
        getattr(layer, norm).gain = _fixed(gain)
    layer.eval()
    return layer


def float_vocabulary(checkpoint: Checkpoint, whole: str) -> Tensor:
    """The embedding or the head, float32 `[vocabulary, hidden]`."""
    units = units_of(checkpoint.config, whole)
    if len(units) == 1:
        return torch.from_numpy(float_unit(checkpoint, units[0]))
    return torch.cat([torch.from_numpy(float_unit(checkpoint, unit)) for unit in units])


def module_of(layer: Any, unit: WeightUnit) -> nn.Module:
    """The linear layer of a unit in its decoder layer."""
    _, _, block, name = unit.name.split(".")
    module: nn.Module = getattr(layer, block)[name]
    return module


def set_weight(linear: Any, weight: Tensor) -> None:
    """Give a dense layer another weight `[out, in]`, without gradients."""
    linear.weight = _fixed(weight)


def run_layer(
    layer: DecoderLayer,
    config: ModelConfig,
    rotation: Tensor,
    states: Sequence[Tensor],
    cache_dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """States `[tokens, hidden]` of each window after the layer."""
    one = attrs.evolve(config, layers=1)
    found = []
    with torch.no_grad():
        for x in states:
            tokens = len(x)
            cache = new_caches(one, -(-tokens // KEY_BLOCK) * KEY_BLOCK, cache_dtype)[0]
            y, _ = layer(x, rotation, causal_placement(0, tokens), cache, None, None)
            found.append(y)
    return found


def layer_stages(
    layer: Any, config: ModelConfig, rotation: Tensor, states: Sequence[Tensor]
) -> Generator[tuple[str, list[Tensor]], None, list[Tensor]]:
    """`run_layer` in float32, halting before each linear layer; returns what that returns.

    Yields the end of the unit's name and what the unit reads of each window, `[tokens, in]`. The unit's
    weight may be replaced before the generator goes on: what comes behind is then of the new one.
    """
    one = attrs.evolve(config, layers=1)
    attention, feed_forward = layer.attention, layer.feed_forward
    with torch.no_grad():
        hidden = [layer.attention_norm(x) for x in states]
    yield "attention.qkv", hidden
    context = []
    with torch.no_grad():
        for x in hidden:
            tokens = len(x)
            placement = causal_placement(0, tokens)
            cache = new_caches(one, -(-tokens // KEY_BLOCK) * KEY_BLOCK, torch.float32)[0]
            queries = layer.append(attention["qkv"](x), rotation, placement, *cache, layer.heads)
            context.append(layer.attend(queries, *cache, placement))
    yield "attention.out", context
    with torch.no_grad():
        states = [x + attention["out"](y) for x, y in zip(states, context, strict=True)]
        hidden = [layer.feed_forward_norm(x) for x in states]
    yield "feed_forward.gate_up", hidden
    with torch.no_grad():
        hidden = [float_ops.silu_mul(feed_forward["gate_up"](x)) for x in hidden]
    yield "feed_forward.down", hidden
    with torch.no_grad():
        return [x + feed_forward["down"](y) for x, y in zip(states, hidden, strict=True)]


def finish(stages: Generator[object, None, list[Tensor]]) -> list[Tensor]:
    """Run a generator of `layer_stages` to its end, and return what it returns."""
    while True:
        try:
            next(stages)
        except StopIteration as end:
            found: list[Tensor] = end.value
            return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch uses one thread: small operations take longer if they must wait for a second."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def rotation_of(config: ModelConfig) -> Tensor:
    """RoPE's table, as the layers take it."""
    return torch.from_numpy(rotation_table(config))


def final_norm(checkpoint: Checkpoint, states: Sequence[Tensor]) -> list[Tensor]:
    """What the head reads of each window: `[tokens, hidden]`."""
    gain = torch.from_numpy(plain_weights(checkpoint)["norm.gain"])
    epsilon = checkpoint.config.norm_epsilon
    return [float_ops.rms_norm(x, gain, epsilon) for x in states]


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
