"""A router and experts for tests: deltas that are random, and routers that are plain to follow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gemcore.models import ops
from gemcore.models.config import ModelConfig
from gemcore.models.decoder import Decoder, ExpertShape
from gemcore.models.layout import EMBEDDING, HEAD, weight_units
from gemcore.models.weights import Weights


class SignRouter(nn.Module):
    """Expert e works with weight `prior[e] / 2` where channel e of the hidden state is positive.

    It has neither sums nor thresholds that rounding could move: every machine gives the same bits.
    """

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]` to weights of the prior's shape."""
        return (hidden[:, : prior.shape[1]] > 0).float() * (prior * 0.5)


class SoftmaxRouter(nn.Module):
    """A learned linear map, softmax, and only what is above `threshold`."""

    def __init__(self, hidden: int, experts: int, threshold: float = 0.2) -> None:
        super().__init__()
        self.scores = nn.Linear(hidden, experts)
        self.threshold = threshold

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]` to weights of the prior's shape."""
        weights = torch.softmax(self.scores(hidden) + prior, dim=-1)
        return torch.where(weights > self.threshold, weights, torch.zeros_like(weights))


class MeanPrior(nn.Module):
    """A prior of a text: a softmax over the mean of what the early layers say of its tokens."""

    def __init__(self, hidden: int, experts: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.empty(hidden, experts))

    def forward(self, hidden: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]` to `[experts]`."""
        return torch.softmax(ops.linear_f32(hidden.mean(0, keepdim=True), self.scores)[0], dim=-1)


def tiny_experts(
    config: ModelConfig, rank: int = 4, names: tuple[str, ...] = ("code", "law", "medicine")
) -> ExpertShape:
    """Some experts, each with a delta on every linear layer of the decoder."""
    layers = frozenset(unit.name for unit in weight_units(config)) - {EMBEDDING, HEAD}
    return ExpertShape(names=names, rank=rank, layers=layers)


def fill_routing(decoder: Decoder, seed: int = 0) -> Weights:
    """Random values for the experts' deltas and the routers, by the names of the decoder's parameters."""
    generator = np.random.default_rng(seed)
    found: Weights = {}
    for name, parameter in decoder.named_parameters():
        if name.endswith((".down", ".up")) or ".router." in name:
            values = generator.standard_normal(parameter.shape, dtype=np.float32)
            values /= np.float32(parameter.shape[-2:][0] ** 0.5)
            found[name] = values.astype(torch.empty(0, dtype=parameter.dtype).numpy().dtype)
    return found
