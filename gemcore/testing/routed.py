"""A router and experts for tests: deltas that are random, and routers that are plain to follow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gemcore.models.config import ModelConfig
from gemcore.models.decoder import Decoder, ExpertShape
from gemcore.models.layout import EMBEDDING, HEAD, weight_units
from gemcore.models.weights import Weights


class SignRouter(nn.Module):
    """Expert e works with weight `prior[e] / 2` where channel e of the hidden state is positive.

    It has neither sums nor thresholds that rounding could move: every machine gives the same bits.
    """

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[experts]` to weights `[tokens, experts]`."""
        return (hidden[:, : prior.shape[0]] > 0).float() * (prior * 0.5)


class SoftmaxRouter(nn.Module):
    """A learned linear map, softmax, and only what is above `threshold`."""

    def __init__(self, hidden: int, experts: int, threshold: float = 0.2) -> None:
        super().__init__()
        self.scores = nn.Linear(hidden, experts)
        self.threshold = threshold

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[experts]` to weights `[tokens, experts]`."""
        weights = torch.softmax(self.scores(hidden) + prior, dim=-1)
        return torch.where(weights > self.threshold, weights, torch.zeros_like(weights))


def tiny_experts(config: ModelConfig, rank: int = 4) -> ExpertShape:
    """Three experts on every linear layer of the decoder."""
    layers = frozenset(unit.name for unit in weight_units(config)) - {EMBEDDING, HEAD}
    return ExpertShape(names=("code", "law", "medicine"), rank=rank, layers=frozenset(layers))


def fill_routing(decoder: Decoder, seed: int = 0) -> Weights:
    """Random values for the experts' deltas and the routers: parameter name to float32 array."""
    generator = np.random.default_rng(seed)
    found: Weights = {}
    for name, parameter in decoder.named_parameters():
        if name.endswith((".down", ".up")) or ".router." in name:
            values = generator.standard_normal(parameter.shape, dtype=np.float32)
            found[name] = values / np.float32(parameter.shape[-2:][0] ** 0.5)
    return found
