"""Sparse cluster attention routing (SCAR): the module that gives each token its experts.

It is ordinary torch without control flow that depends on values and without a sort, so that it exports
and compiles into a few small operations. The idea is that of the paper GEM starts from (arXiv
2503.22698), whose abstract has no formulas; the definition is GEM's own. Related work: X-LoRA (arXiv
2402.07148) mixes all adapters for every token by a learned head; Arrow (arXiv 2405.11157, "Towards
Modular LLMs by Building and Reusing a Library of LoRAs") compares tokens with one key an adapter;
MoDEM (arXiv 2410.07490) and Tryage (arXiv 2308.11601) choose one expert for a whole prompt.
"""

from __future__ import annotations

import math
from types import ModuleType

import attrs
import torch
from torch import Tensor, nn

from gemcore.models import ops

SMALLEST = 1e-6
"""What a probability counts as at least where its logarithm is taken."""


LEAST_SHARE = 0.5
"""What a prior must give the experts together, or else the general path reads the whole prompt."""


@attrs.frozen(kw_only=True)
class ScarSettings:
    """What SCAR decides by.

    Attributes:
        temperature: similarities are divided by it.
        top_p: the smallest set of clusters with at least this mass is kept.
        max_experts: the most experts of a token.
        tau: a token whose normalised entropy is above it takes the general path.
        radius: a token farther than this from all keys is unfamiliar, and the general path takes over;
            None where no distance is too far.
        prior_weight: how much the logarithm of the prior counts.
        hard: the expert with most mass gets weight 1 if the general path has less, the others none.
    """

    temperature: float = 1.0
    top_p: float = 0.9
    max_experts: int = 2
    tau: float = 0.6
    radius: float | None = None
    prior_weight: float = 1.0
    hard: bool = False


class ClusterAttention(nn.Module):
    """Queries of tokens against cluster keys.

    A cluster's score is `-|q - k|²/2` for query q and key k: its softmax is the posterior of a mixture of
    equal round Gaussians, so k-means centroids are natural keys. With a radius r there is one general
    cluster more, which is at distance r from everything.

    Args:
        query: float32 `[width, hidden]`: projects a token's hidden state.
        keys: float32 `[clusters, width]`.
        values: float32 `[clusters, experts]`: 1 where a cluster belongs to an expert; a row of zeros
            is a general cluster, which stands for no expert.
        settings: what it decides by.
        operations: where `linear_f32` is from: `ops`, which compiles into GEM's own kernel and has the same
            bits on every machine, or `float_ops`, which is quick in eager mode.
    """

    def __init__(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        settings: ScarSettings,
        operations: ModuleType = ops,
    ) -> None:
        super().__init__()
        self.linear = operations.linear_f32
        self.query = _parameter(query.T)  # [hidden, width]
        self.keys = _parameter(keys.T)  # [width, clusters]
        self.lengths = _parameter(keys.square().sum(-1))  # [clusters]
        if settings.radius is not None:
            values = torch.cat([values, torch.zeros_like(values[:1])])
        self.values = _parameter(values)  # [clusters, experts]
        self.owners = _parameter(torch.cat([values.T, 1 - values.sum(-1)[None]]))
        self.settings = settings

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """Weights of the experts for each token.

        Args:
            hidden: float32 `[tokens, hidden]`, after the norm of the routing layer.
            prior: float32 `[tokens, experts]`; a row of zeros is no opinion.

        Returns:
            float32 `[tokens, experts]`, rows of at least 0 with a sum of at most 1.
        """
        settings = self.settings
        mass = self.mass(hidden, prior)
        kept = kept_by_mass(mass, settings.top_p)
        weights = self.linear(kept, self.values)
        most = 1 if settings.hard else settings.max_experts
        general = kept.sum(-1, keepdim=True) - weights.sum(-1, keepdim=True)
        weights = torch.where(rank_of(weights) < most, weights, 0.0)
        if settings.hard:
            weights = torch.where(weights > general.clamp(min=SMALLEST), 1.0, 0.0)
        weights = torch.where(self.entropy(mass) <= settings.tau, weights, 0.0)
        total = prior.sum(-1, keepdim=True)
        return torch.where((total > 0) & (total < LEAST_SHARE), 0.0, weights)

    def mass(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """How a token's attention is spread over the clusters: `[tokens, clusters]`, sums of 1."""
        query = self.linear(hidden, self.query)
        sizes = query.square().sum(-1, keepdim=True) + self.lengths
        scores = self.linear(query, self.keys) - sizes / 2
        if self.settings.radius is not None:
            beyond = torch.zeros_like(scores[:, :1]) - self.settings.radius**2 / 2
            scores = torch.cat([scores, beyond], dim=-1)
        return torch.softmax(scores / self.settings.temperature + self._bias(prior), dim=-1)

    def entropy(self, mass: Tensor) -> Tensor:
        """Entropy over the experts and the general path, over its maximum: `[tokens, 1]`."""
        experts = self.linear(mass, self.values)
        general = 1 - experts.sum(-1, keepdim=True)
        shares = torch.cat([experts, general], dim=-1).clamp(min=SMALLEST)
        most = math.log(shares.shape[-1])
        return -(shares * torch.log(shares)).sum(-1, keepdim=True) / most

    def _bias(self, prior: Tensor) -> Tensor:
        """The logarithm of each cluster's prior: its expert's, or what is left for the general path."""
        total = prior.sum(-1, keepdim=True)
        shares = self.linear(torch.cat([prior, 1 - total], dim=-1), self.owners)
        bias = torch.log(shares.clamp(min=SMALLEST)) * self.settings.prior_weight
        return torch.where(total > 0, bias, 0.0)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=False)


def rank_of(values: Tensor) -> Tensor:
    """How many of a row stand before each: `[tokens, n]` to the same shape, as float32.

    Larger values stand first, of equal ones the first. It compares all pairs, for sorting compiles
    badly and rows are short.
    """
    # Not of bool, whose sum would be of int64.
    return torch.where(_before(values), 1.0, 0.0).sum(-1)


def kept_by_mass(mass: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of each row `[tokens, n]` with a sum of at least `top_p`.

    That is nucleus selection (arXiv 1904.09751): a value stays where those before it sum to less.
    """
    before = torch.where(_before(mass), mass[:, None, :], 0.0).sum(-1)
    return torch.where(before < top_p, mass, 0.0)


def _before(values: Tensor) -> Tensor:
    """Whether j stands before i: bool `[tokens, i, j]`."""
    mine, other = values[:, :, None], values[:, None, :]
    index = torch.arange(values.shape[1], device=values.device)
    first = index[None, :] < index[:, None]
    return (other > mine) | ((other == mine) & first)
