"""Trace the decoder with torch.export: weights and caches become inputs, sizes stay open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from gemcore.errors import GemError
from gemcore.models.cache_layout import (
    DEFAULT_CACHE,
    KEY_BLOCK,
    PLACEMENT_FIELDS,
    check_cache_scheme,
)
from gemcore.models.config import ModelConfig
from gemcore.models.decoder import Decoder, ExpertShape, LayerCache, new_caches
from gemcore.models.routed import PRIOR

if TYPE_CHECKING:
    from gemcore.routing import PriorNetwork

CALL_INPUTS = ("tokens", "placement", "rows")
"""What changes from pass to pass; the prior over experts comes fourth in a routed model."""

PRIOR_INPUTS = ("tokens", "placement")
"""What changes from call to call of the program that gives the prior."""

ROUTES_INPUTS = ("tokens", "placement", "priors")
"""What changes from call to call of the program that says which experts work."""


@attrs.frozen(kw_only=True, eq=False)
class ExportedDecoder:
    """A traced decoder.

    Attributes:
        program: takes the call inputs, then the caches, then the weights.
        weights: names of the weights, in the order of their inputs.
        call_inputs: how many inputs come before the caches.
        prior: gives the prior over experts `[experts]` of a text; it takes the tokens and their placement,
            then the same caches and weights as `program`. Where an encoder reads the text, the tokens are
            its own, and placement and caches are of no use. None where the model has no such part.
        routes: gives what each router says of each token, `[routing layers, tokens, experts]`; it takes
            the tokens, their placement and the prior of each, then the same caches and weights. None
            for a model without router.
    """

    program: torch.export.ExportedProgram
    weights: tuple[str, ...]
    call_inputs: int
    prior: torch.export.ExportedProgram | None = None
    routes: torch.export.ExportedProgram | None = None


class _Stateless(nn.Module):
    """The decoder with its weights as an argument, so that tracing needs no real weights."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        # Held where torch does not look for parameters: they come in as arguments.
        self.__dict__["decoder"] = decoder

    def forward(
        self,
        tokens: Tensor,
        placement: Tensor,
        rows: Tensor,
        priors: list[Tensor],
        caches: list[LayerCache],
        weights: dict[str, Tensor],
    ) -> Tensor:
        arguments = (tokens, placement, rows, caches, *priors)
        own = {name: tensor for name, tensor in weights.items() if not _of_prior(name)}
        logits: Tensor = torch.func.functional_call(self.__dict__["decoder"], own, arguments)
        return logits


class _Early(nn.Module):
    """The decoder's first layers, and the network that gives the prior from what they say of a text."""

    def __init__(self, decoder: Decoder, layers: int, network: nn.Module) -> None:
        super().__init__()
        self.decoder, self.layers = decoder, layers
        self.add_module(PRIOR, network)

    def forward(self, tokens: Tensor, placement: Tensor, caches: list[LayerCache]) -> Tensor:
        hidden = self.decoder.hidden(tokens, placement, caches, layers=self.layers)
        prior: Tensor = self.get_submodule(PRIOR)(hidden)
        return prior


class _StatelessEarly(nn.Module):
    """`_Early` with its weights as an argument, by the names that the decoder has for them."""

    def __init__(self, early: _Early) -> None:
        super().__init__()
        self.__dict__["early"] = early

    def forward(
        self,
        tokens: Tensor,
        placement: Tensor,
        caches: list[LayerCache],
        weights: dict[str, Tensor],
    ) -> Tensor:
        named = {n if _of_prior(n) else f"decoder.{n}": t for n, t in weights.items()}
        arguments = (tokens, placement, caches)
        prior: Tensor = torch.func.functional_call(self.__dict__["early"], named, arguments)
        return prior


class _StatelessEncoder(nn.Module):
    """An encoder of its own, with the inputs of `_StatelessEarly`, most of which it does not use."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.__dict__["network"] = network

    def forward(
        self,
        tokens: Tensor,
        placement: Tensor,
        caches: list[LayerCache],
        weights: dict[str, Tensor],
    ) -> Tensor:
        own = {n.removeprefix(f"{PRIOR}."): t for n, t in weights.items() if _of_prior(n)}
        prior: Tensor = torch.func.functional_call(self.__dict__["network"], own, (tokens,))
        return prior


class _Routes(nn.Module):
    """The decoder up to its last router, with its weights as an argument."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.__dict__["routes"] = _Upto(decoder)

    def forward(
        self,
        tokens: Tensor,
        placement: Tensor,
        priors: Tensor,
        caches: list[LayerCache],
        weights: dict[str, Tensor],
    ) -> Tensor:
        named = {f"decoder.{n}": t for n, t in weights.items() if not _of_prior(n)}
        arguments = (tokens, placement, caches, priors)
        routes: Tensor = torch.func.functional_call(self.__dict__["routes"], named, arguments)
        return routes


class _Upto(nn.Module):
    """`Decoder.routes` as a module."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, placement: Tensor, caches: list[LayerCache], priors: Tensor
    ) -> Tensor:
        routes: Tensor = self.decoder.routes(tokens, placement, caches, priors)
        return routes


def export_decoder(
    config: ModelConfig,
    schemes: Mapping[str, str],
    *,
    router: Sequence[nn.Module | None] = (),
    experts: ExpertShape | None = None,
    prior: PriorNetwork | None = None,
    cache: str = DEFAULT_CACHE,
) -> ExportedDecoder:
    """Trace a decoder of this shape for any number of tokens, of wanted rows and of cache positions.

    The weights are never touched: tracing knows only their shapes.

    Args:
        config, schemes, router, experts: as `Decoder` takes them.
        prior: what gives the prior: from the model's own first layers, which run without experts for it,
            or from an encoder's own tokens. Its weights are called `prior.<parameter>`.
        cache: the cache's scheme.

    Raises:
        UsageError: when the cache's scheme cannot hold this model's heads.
        GemError: when `prior` asks for layers that there are not, or gives something else than a number
            for each expert.
    """
    check_cache_scheme(cache, config)
    with torch.device("meta"):
        decoder = Decoder(config, schemes, router=router, experts=experts, cache=cache).eval()
        # Routers come with real weights; they too are inputs, known by their shapes alone.
        tensors = _tensors(decoder)
        weights = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
        caches = new_caches(config, 4 * KEY_BLOCK, scheme=cache)
        tokens, rows = torch.zeros(5, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
        placement = torch.zeros(5, PLACEMENT_FIELDS, dtype=torch.int32)
        priors = [torch.zeros(5, len(experts.names))] if experts is not None else []
        if prior is not None:
            tensors = _tensors(prior.module, PRIOR)
            weights |= {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    count = torch.export.Dim("tokens", min=1, max=config.context_length)
    wanted = torch.export.Dim("rows", min=1, max=config.context_length)
    blocks = torch.export.Dim("blocks", min=1)
    # Values lie position by position, or in blocks as keys do.
    positions = torch.export.Dim("capacity", min=1) if cache == "f16" else blocks
    dynamic = {
        "tokens": {0: count},
        "placement": {0: count},
        "rows": {0: wanted},
        "priors": [{0: count} for _ in priors],
        "caches": [({1: blocks}, {1: positions}) for _ in caches],
        "weights": dict.fromkeys(weights),
    }
    inputs = (tokens, placement, rows, priors, caches, weights)
    with torch.no_grad():
        program = torch.export.export(_Stateless(decoder), inputs, dynamic_shapes=dynamic)
    asking = None
    if prior is not None:
        names = () if experts is None else experts.names
        known = {name: dynamic[name] for name in (*PRIOR_INPUTS, "caches", "weights")}
        read = (tokens, placement, caches, weights)
        asking = _export_prior(decoder, prior, read, known, names)
    routes = None
    if priors and decoder.last_router >= 0:
        known = {name: dynamic[name] for name in ("tokens", "placement", "caches", "weights")}
        known["priors"] = {0: count}
        asked = (tokens, placement, priors[0], caches, weights)
        with torch.no_grad():
            routes = torch.export.export(_Routes(decoder).eval(), asked, dynamic_shapes=known)
    return ExportedDecoder(
        program=program,
        weights=tuple(weights),
        call_inputs=len(CALL_INPUTS) + len(priors),
        prior=asking,
        routes=routes,
    )


def _export_prior(
    decoder: Decoder,
    prior: PriorNetwork,
    inputs: tuple[Any, ...],
    dynamic: dict[str, Any],
    experts: tuple[str, ...],
) -> torch.export.ExportedProgram:
    module = _prior_module(decoder, prior)
    if not isinstance(module, _StatelessEarly):
        # An encoder knows only so many positions.
        count = torch.export.Dim("tokens", min=1, max=prior.longest)
        dynamic = dynamic | {"tokens": {0: count}, "placement": {0: count}}
    with torch.no_grad():
        program = torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic)
    output = next(node for node in program.graph.nodes if node.op == "output")
    given = tuple(output.args[0][-1].meta["val"].shape)
    if given != (len(experts),):
        raise GemError(
            f"the network of the prior gives numbers of shape {list(given)}, not one for each of "
            f"{len(experts)} experts"
        )
    return program


def _prior_module(decoder: Decoder, prior: PriorNetwork) -> nn.Module:
    from gemcore.routing import EncoderPrior

    if isinstance(prior, EncoderPrior):
        return _StatelessEncoder(prior.module)
    if not 0 <= prior.layers <= decoder.config.layers:
        raise GemError(
            f"the prior wants to read {prior.layers} layers of a model that has {decoder.config.layers}"
        )
    return _StatelessEarly(_Early(decoder, prior.layers, prior.module))


def _of_prior(name: str) -> bool:
    return name.startswith(f"{PRIOR}.")


def _tensors(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers by name, in this order, each once."""
    return {**dict(module.named_parameters(prefix)), **dict(module.named_buffers(prefix))}
