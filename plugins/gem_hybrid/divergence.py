"""The KL divergence of a packed model's next-token distributions from the float model's, measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy.typing as npt
import torch
from torch import Tensor

from gem_hybrid.as_compiled import cache_type, rounded
from gem_hybrid.states import (
    Windows,
    final_norm,
    float_layer,
    rotation_of,
    run_layer,
    units_of_layer,
)
from gemcore.errors import UsageError
from gemcore.models.cache_layout import DEFAULT_CACHE
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import EMBEDDING, HEAD, WeightUnit, vocabulary_weight, weight_units
from gemcore.models.weights import float_unit
from gemcore.packing import unpack_weight
from gemcore.schemes import get_scheme

WeightSource = Callable[[str], Tensor]
"""Gives a unit's float32 weight `[out, in]` by its name; the embedding and the head whole."""


@attrs.frozen(kw_only=True)
class Divergence:
    """How far a packed model is from the float model.

    Attributes:
        kl: mean of `Σ p·log(p / q)` over tokens, in nats: p the float model's, q the packed one's.
        standard_error: of that mean, with tokens taken as independent.
        tokens: how many were measured.
        weights_only: the same where nothing but weights is rounded; None where that was not measured.
    """

    kl: float
    standard_error: float
    tokens: int
    weights_only: float | None = None


def measure_divergence(
    checkpoint: Checkpoint,
    schemes: Mapping[str, str],
    weights: Mapping[str, npt.NDArray[Any]],
    windows: Windows,
    cache: str = DEFAULT_CACHE,
) -> Divergence:
    """Run the models side by side, layer by layer.

    The packed model is run twice: with the roundings of a compiled model, of activations to 8 bits and of
    keys and values, and with those of the weights alone.

    Args:
        checkpoint: the float model.
        schemes: unit name to scheme name.
        weights: packed weights by name, as `Quantizer.apply` returns them.
        windows: token ids, each read by itself.
        cache: scheme of keys and values.

    Raises:
        UsageError: a model's logits are not finite.
    """
    packed = packed_source(checkpoint, schemes, weights)
    exact = float_source(checkpoint)
    base = final_states(checkpoint, exact, windows)
    head = EMBEDDING if checkpoint.config.tied_head else HEAD
    heads = exact(head), packed(head)
    alone = final_states(checkpoint, packed, windows)
    only = _compare(checkpoint, base, alone, heads)
    rounds = {_whole(name) for name, scheme in schemes.items() if get_scheme(scheme).grouped}
    whole = final_states(checkpoint, packed, windows, rounds=rounds, cache=cache, head=head)
    found = _compare(checkpoint, base, whole, heads)
    return attrs.evolve(found, weights_only=only.kl)


def cache_divergence(checkpoint: Checkpoint, cache: str, windows: Windows) -> Divergence:
    """What a scheme of keys and values costs by itself, all else in float32."""
    exact = float_source(checkpoint)
    base = final_states(checkpoint, exact, windows)
    other = final_states(checkpoint, exact, windows, cache=cache)
    head = exact(EMBEDDING if checkpoint.config.tied_head else HEAD)
    return _compare(checkpoint, base, other, (head, head))


def packed_source(
    checkpoint: Checkpoint, schemes: Mapping[str, str], weights: Mapping[str, npt.NDArray[Any]]
) -> WeightSource:
    """The weights that packed ones stand for; arguments as `measure_divergence` has them."""
    units = weight_units(checkpoint.config)

    def unpacked(unit: WeightUnit) -> Tensor:
        scheme = get_scheme(schemes[unit.name])
        return torch.from_numpy(
            unpack_weight(weights[f"{unit.name}.packed"], scheme, unit.shape[0])
        )

    def source(name: str) -> Tensor:
        parts = [unpacked(unit) for unit in units if _whole(unit.name) == name]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return source


def float_source(checkpoint: Checkpoint) -> WeightSource:
    """The weights as the checkpoint has them."""
    config = attrs.evolve(checkpoint.config, vocabulary_bands=())
    units = {unit.name: unit for unit in weight_units(config)}
    return lambda name: torch.from_numpy(float_unit(checkpoint, units[name]))


def _whole(name: str) -> str:
    """Of a unit: bands of the embedding and of the head are read as one."""
    return vocabulary_weight(name) or name


def final_states(
    checkpoint: Checkpoint,
    source: WeightSource,
    windows: Windows,
    *,
    rounds: Collection[str] = (),
    cache: str | None = None,
    head: str = HEAD,
) -> list[Tensor]:
    """What the head reads of each window, `[tokens, hidden]`, with one layer's weights in memory.

    Args:
        checkpoint: gives norms and biases.
        source: gives the weights.
        windows: token ids, each read by itself.
        rounds: names of the units whose inputs are rounded to 8 bits.
        cache: scheme whose rounding keys and values get; None for none.
        head: name of the unit that is the head.
    """
    config = checkpoint.config
    rotation = rotation_of(config)
    embedding = source(EMBEDDING)
    states = [embedding[torch.tensor(window)] for window in windows]
    del embedding
    dtype = torch.float32 if cache is None else cache_type(cache)
    for index in range(config.layers):
        own = {unit.name: source(unit.name) for unit in units_of_layer(config, index)}
        layer = float_layer(checkpoint, index, own, rounds=rounds, cache=cache)
        states = run_layer(layer, config, rotation, states, dtype)
    found = final_norm(checkpoint, states)
    return [rounded(x) for x in found] if head in rounds else found


def token_divergences(
    base: Sequence[Tensor], other: Sequence[Tensor], heads: tuple[Tensor, Tensor]
) -> Iterator[Tensor]:
    """The KL of each token, float64 `[tokens]` for each window, from what the two heads read and are."""
    for p, q in zip(base, other, strict=True):
        yield _divergences(p @ heads[0].T, q @ heads[1].T)


def _compare(
    checkpoint: Checkpoint,
    base: Sequence[Tensor],
    other: Sequence[Tensor],
    heads: tuple[Tensor, Tensor],
) -> Divergence:
    values = torch.cat(list(token_divergences(base, other, heads)))
    if not bool(torch.isfinite(values).all()):
        raise UsageError(f"the logits of model '{checkpoint.name}' are not finite on this text")
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Divergence(kl=float(values.mean()), standard_error=spread, tokens=len(values))


def _divergences(p: Tensor, q: Tensor) -> Tensor:
    """KL of each token from logits `[tokens, vocabulary]`: float64 `[tokens]`."""
    p, q = torch.log_softmax(p, 1), torch.log_softmax(q, 1)
    return (p.exp() * (p - q)).double().sum(1)
