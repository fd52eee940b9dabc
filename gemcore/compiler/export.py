"""Trace the decoder with torch.export: weights and caches become inputs, sizes stay open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from gemcore.models.cache_layout import (
    DEFAULT_CACHE,
    KEY_BLOCK,
    PLACEMENT_FIELDS,
    check_cache_scheme,
)
from gemcore.models.config import ModelConfig
from gemcore.models.decoder import Decoder, ExpertShape, LayerCache, new_caches

CALL_INPUTS = ("tokens", "placement", "rows")
"""What changes from pass to pass; the prior over experts comes fourth in a routed model."""


@attrs.frozen(kw_only=True, eq=False)
class ExportedDecoder:
    """A traced decoder.

    Attributes:
        program: takes the call inputs, then the caches, then the weights.
        weights: names of the weights, in the order of their inputs.
        call_inputs: how many inputs come before the caches.
    """

    program: torch.export.ExportedProgram
    weights: tuple[str, ...]
    call_inputs: int


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
        logits: Tensor = torch.func.functional_call(self.__dict__["decoder"], weights, arguments)
        return logits


def export_decoder(
    config: ModelConfig,
    schemes: Mapping[str, str],
    *,
    router: Sequence[nn.Module | None] = (),
    experts: ExpertShape | None = None,
    cache: str = DEFAULT_CACHE,
) -> ExportedDecoder:
    """Trace a decoder of this shape for any number of tokens, of wanted rows and of cache positions.

    The weights are never touched: tracing knows only their shapes. `cache` is the cache's scheme; UsageError
    when it cannot hold this model's heads.
    """
    check_cache_scheme(cache, config)
    with torch.device("meta"):
        decoder = Decoder(config, schemes, router=router, experts=experts, cache=cache).eval()
        # Routers come with real weights; they too are inputs, known by their shapes alone.
        tensors = {**dict(decoder.named_parameters()), **dict(decoder.named_buffers())}
        weights = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
        caches = new_caches(config, 4 * KEY_BLOCK, scheme=cache)
        tokens, rows = torch.zeros(5, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
        placement = torch.zeros(5, PLACEMENT_FIELDS, dtype=torch.int32)
        priors = [torch.zeros(len(experts.names))] if experts is not None else []
    count = torch.export.Dim("tokens", min=1, max=config.context_length)
    wanted = torch.export.Dim("rows", min=1, max=config.context_length)
    blocks = torch.export.Dim("blocks", min=1)
    # Values lie position by position, or in blocks as keys do.
    positions = torch.export.Dim("capacity", min=1) if cache == "f16" else blocks
    dynamic = {
        "tokens": {0: count},
        "placement": {0: count},
        "rows": {0: wanted},
        "priors": [None for _ in priors],
        "caches": [({1: blocks}, {1: positions}) for _ in caches],
        "weights": dict.fromkeys(weights),
    }
    inputs = (tokens, placement, rows, priors, caches, weights)
    with torch.no_grad():
        program = torch.export.export(_Stateless(decoder), inputs, dynamic_shapes=dynamic)
    return ExportedDecoder(
        program=program,
        weights=tuple(weights),
        call_inputs=len(CALL_INPUTS) + len(priors),
    )
