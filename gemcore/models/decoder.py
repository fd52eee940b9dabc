"""The decoder: the Llama family in plain torch, with room for a router and its experts.

One pass takes any number of tokens, of one text or of several, and writes the cache in place; see
`gemcore.models.ops` for `placement` and for the layout of the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import attrs
import torch
from torch import Tensor, nn

from gemcore.models import float_ops, ops
from gemcore.models.cache_layout import DEFAULT_CACHE, cache_dtype, cache_shapes
from gemcore.models.config import ModelConfig
from gemcore.models.layout import EMBEDDING, HEAD, rotation_table, units_of, weight_units
from gemcore.models.linear import DENSE, BandedLinear, PackedLinear, make_linear

LayerCache = tuple[Tensor, Tensor]


@attrs.frozen(kw_only=True)
class ExpertShape:
    """The experts of a routed model: low-rank deltas on some of its linear layers.

    Attributes:
        names: experts in the order of the router's weights.
        rank: rank of every delta.
        layers: unit names that carry deltas, for example `layers.0.feed_forward.down`.
    """

    names: tuple[str, ...]
    rank: int
    layers: frozenset[str]


class RoutedLinear(nn.Module):
    """A linear layer plus the deltas of the experts that the router chose.

    The deltas are float16, and read the activations as the layer rounds them; on `float_ops` they are
    float32.
    """

    def __init__(
        self, base: nn.Module, shape: tuple[int, int], experts: ExpertShape, operations: ModuleType
    ) -> None:
        super().__init__()
        count, rank = len(experts.names), experts.rank
        self.base, self.operations = base, operations
        exact = operations is ops
        self.rounds = exact and isinstance(base, PackedLinear) and base.rounds
        dtype = torch.float16 if exact else torch.float32
        down = torch.empty(count, shape[1], rank, dtype=dtype)  # [experts, in, rank]
        up = torch.empty(count, rank, shape[0], dtype=dtype)  # [experts, rank, out]
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: Tensor, weights: Tensor, residual: Tensor | None = None) -> Tensor:
        """`x` `[tokens, in]`, `weights` `[tokens, experts]` to `[tokens, out]`, all float32.

        The deltas come after `residual` `[tokens, out]`, so that it is added where the product is made.
        """
        deltas = weights, self.down, self.up
        if not self.rounds:
            plain = _added(residual, self.base(x))
            result: Tensor = self.operations.routed_lora(x, plain, *deltas)
            return result
        values, scales, sums = ops.quantize(x)
        plain = _added(residual, self.base.product(values, scales, sums))
        return ops.routed_lora_q8(values, scales, plain, *deltas)


class RMSNorm(nn.Module):
    """Root mean square norm with a gain."""

    def __init__(self, hidden: int, epsilon: float, operations: ModuleType) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(hidden))
        self.epsilon, self.operations = epsilon, operations

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[tokens, hidden]` float32 to the same shape."""
        y: Tensor = self.operations.rms_norm(x, self.gain, self.epsilon)
        return y


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each after a norm and added to the residual stream."""

    def __init__(
        self,
        config: ModelConfig,
        index: int,
        linears: Mapping[str, nn.Module],
        operations: ModuleType,
        router: nn.Module | None,
        cache: str = DEFAULT_CACHE,
    ) -> None:
        super().__init__()
        self.heads, self.operations, self.router = config.heads, operations, router
        rounds = cache == "q8"
        self.append = operations.rope_append_q8 if rounds else operations.rope_append
        self.attend = operations.attention_q8 if rounds else operations.attention
        prefix = f"layers.{index}."
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_epsilon, operations)
        self.attention = nn.ModuleDict(
            {name: linears[f"{prefix}attention.{name}"] for name in ("qkv", "out")}
        )
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.norm_epsilon, operations)
        self.feed_forward = nn.ModuleDict(
            {name: linears[f"{prefix}feed_forward.{name}"] for name in ("gate_up", "down")}
        )

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        placement: Tensor,
        cache: LayerCache,
        prior: Tensor | None,
        weights: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """`x` `[tokens, hidden]` float32 to the same shape; writes `cache`.

        `weights` `[tokens, experts]` are those of the layer before; they come back as this layer's router
        leaves them. Where they are None, the base model works alone, as it does without a `prior`.
        """
        hidden = self.attention_norm(x)
        if self.router is not None and prior is not None:
            weights = self.router(hidden, prior)
        qkv = _apply(self.attention["qkv"], hidden, weights)
        queries = self.append(qkv, rotation, placement, *cache, self.heads)
        context = self.attend(queries, *cache, placement)
        x = _apply(self.attention["out"], context, weights, x)
        gate_up = _apply(self.feed_forward["gate_up"], self.feed_forward_norm(x), weights)
        middle = self.operations.silu_mul(gate_up)
        return _apply(self.feed_forward["down"], middle, weights, x), weights


class Decoder(nn.Module):
    """A Llama-family decoder.

    Args:
        config: the shape of the model.
        schemes: how each weight unit is stored (`gemcore.models.layout.weight_units`); a packing
            scheme, or `f32`.
        router: for each layer a module `(hidden [tokens, hidden], prior [tokens, experts]) -> weights
            [tokens, experts]`, or None, where the weights of the layer before go on (before the first
            module no expert works); an empty sequence means no routing at all.
        experts: the experts that the router chooses among.
        float_arithmetic: run on `float_ops` (fast, differentiable) rather than on the exact `ops`.
        cache: scheme of the cache (`gemcore.models.cache_layout`); `float_ops` know only `f16`'s layout.
    """

    def __init__(
        self,
        config: ModelConfig,
        schemes: Mapping[str, str],
        *,
        router: Sequence[nn.Module | None] = (),
        experts: ExpertShape | None = None,
        float_arithmetic: bool = False,
        cache: str = DEFAULT_CACHE,
    ) -> None:
        super().__init__()
        operations = float_ops if float_arithmetic else ops
        self.config = config
        linears: dict[str, nn.Module] = {}
        for unit in weight_units(config):
            linear = make_linear(schemes[unit.name], unit.shape, bias=bool(unit.bias_sources))
            if experts is not None and unit.name in experts.layers:
                linear = RoutedLinear(linear, unit.shape, experts, operations)
            linears[unit.name] = linear
        self.embedding = _vocabulary_linear(config, EMBEDDING, linears)
        self.layers = nn.ModuleList(
            DecoderLayer(config, i, linears, operations, router[i] if router else None, cache)
            for i in range(config.layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_epsilon, operations)
        # A tied head is the same module: it is stored once.
        tied = config.tied_head
        self.head = self.embedding if tied else _vocabulary_linear(config, HEAD, linears)
        self.rotation = nn.Parameter(torch.empty(config.context_length, config.head_dim))

    def forward(
        self,
        tokens: Tensor,
        placement: Tensor,
        rows: Tensor,
        caches: Sequence[LayerCache],
        prior: Tensor | None = None,
    ) -> Tensor:
        """Logits of chosen tokens.

        Args:
            tokens: int32 `[tokens]`.
            placement: int32 `[tokens, 5]`.
            rows: int32 `[rows]`: the tokens of this pass whose logits are wanted.
            caches: keys and values of each layer; written in place.
            prior: float32 `[tokens, experts]`, for routed models: each token has its request's. Without
                it no router is asked, and the base model works alone.

        Returns:
            float32 `[rows, vocabulary]`.
        """
        x = self.hidden(tokens, placement, caches, prior)
        logits: Tensor = self.head(self.norm(torch.index_select(x, 0, rows)))
        return logits

    def hidden(
        self,
        tokens: Tensor,
        placement: Tensor,
        caches: Sequence[LayerCache],
        prior: Tensor | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """The residual stream after the first `layers` layers, or all: `[tokens, hidden]`, before the norm.

        Only the caches of those layers are written.
        """
        x: Tensor = self.embedding.embed(tokens)
        weights: Tensor | None = None
        for layer, cache in list(zip(self.layers, caches, strict=True))[:layers]:
            x, weights = layer(x, self.rotation, placement, cache, prior, weights)
        return x

    def routes(
        self, tokens: Tensor, placement: Tensor, caches: Sequence[LayerCache], prior: Tensor
    ) -> Tensor:
        """What each router says of each token: `[routing layers, tokens, experts]` float32.

        The experts work on the way, so this is what happens in `forward`. Nothing is computed after the
        last router, and only the caches of the layers before it are written. There must be a router.
        """
        x: Tensor = self.embedding.embed(tokens)
        weights: Tensor | None = None
        found = []
        *before, last = list(self.layers)[: self.last_router + 1]
        for layer, cache in zip(before, caches, strict=False):
            x, weights = layer(x, self.rotation, placement, cache, prior, weights)
            if layer.router is not None:
                found.append(weights)
        found.append(last.router(last.attention_norm(x), prior))
        return torch.stack(found)

    @property
    def last_router(self) -> int:
        """Index of the last layer that has a router; -1 where none has."""
        routing = [i for i, layer in enumerate(self.layers) if layer.router is not None]
        return max(routing, default=-1)


def _vocabulary_linear(
    config: ModelConfig, whole: str, linears: Mapping[str, nn.Module]
) -> nn.Module:
    """The embedding or the head, of its bands."""
    units = units_of(config, whole)
    if not config.vocabulary_bands:
        return linears[whole]
    return BandedLinear([linears[u.name] for u in units], [u.shape[0] for u in units])


def _apply(
    linear: nn.Module, x: Tensor, weights: Tensor | None, residual: Tensor | None = None
) -> Tensor:
    if isinstance(linear, RoutedLinear):
        if weights is not None:
            y: Tensor = linear(x, weights, residual)
            return y
        linear = linear.base
    return _added(residual, linear(x))


def _added(residual: Tensor | None, y: Tensor) -> Tensor:
    return y if residual is None else residual + y


def dense_schemes(config: ModelConfig) -> dict[str, str]:
    """The plan of a float32 model: nothing is packed."""
    return {unit.name: DENSE for unit in weight_units(config)}


def new_caches(
    config: ModelConfig,
    capacity: int,
    dtype: torch.dtype | None = None,
    *,
    scheme: str = DEFAULT_CACHE,
) -> list[LayerCache]:
    """An empty cache of `capacity` positions for every layer; `dtype` is the scheme's own if not given."""
    keys, values = cache_shapes(config, capacity, scheme)
    dtype = dtype or getattr(torch, cache_dtype(scheme))
    return [
        (torch.zeros(keys, dtype=dtype), torch.zeros(values, dtype=dtype))
        for _ in range(config.layers)
    ]


def causal_placement(start: int, tokens: int) -> Tensor:
    """Placement of `tokens` tokens of one text that continues at position `start`: int32 `[tokens, 5]`."""
    positions = torch.arange(start, start + tokens, dtype=torch.int32)
    nothing = torch.zeros_like(positions)
    return torch.stack([positions, positions, nothing, nothing, nothing], 1)


def load_weights(decoder: Decoder, weights: Mapping[str, object]) -> None:
    """Copy NumPy arrays into the decoder's parameters, by name; every one must be there."""
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    if "rotation" not in state:
        state["rotation"] = torch.from_numpy(rotation_table(decoder.config))
    if decoder.head is decoder.embedding:
        # The state of a module that is used twice has both names.
        shared = {n: t for n, t in state.items() if n.startswith(f"{EMBEDDING}.")}
        state |= {HEAD + n.removeprefix(EMBEDDING): t for n, t in shared.items()}
    decoder.load_state_dict(state, strict=True, assign=True)
