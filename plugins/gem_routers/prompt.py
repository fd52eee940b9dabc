"""`prompt`: a classifier chooses one expert for a whole prompt.

That is what MoDEM (arXiv 2410.07490) and Tryage (arXiv 2308.11601) do with whole models, by a text
encoder of their own. Here the classifier is SCAR's early prior, which reads the base model's first
layers, so that the two routers differ in nothing but what tokens do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gem_routers.opening import first_layer
from gem_scar.attention import rank_of
from gem_scar.router import ScarRouter
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet
    from gemcore.routing import PriorNetwork


class LikeliestExpert(nn.Module):
    """Weight 1 for the expert with the largest prior where that is at least `confidence`."""

    def __init__(self, confidence: float) -> None:
        super().__init__()
        self.confidence = confidence

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]` to weights `[tokens, experts]`."""
        # With a confidence of 0, a prior of zeros is still no opinion.
        chosen = (rank_of(prior) < 1) & (prior >= self.confidence) & (prior > 0)
        return torch.where(chosen, 1.0, 0.0)


class PromptRouter:
    """Chooses an expert once a request, by the prior that was fitted for the router `scar`.

    Args:
        experts: a set's name or its folder; None for the default set.
        confidence: share of the prior that an expert needs to work.
    """

    def __init__(self, experts: str | None = None, confidence: float = 0.5) -> None:
        self._choice, self._confidence = experts, confidence

    def prior(self, prompt: str) -> None:
        """Have no opinion on text alone: the prior network reads hidden states."""

    def experts(self) -> ExpertSet:
        """The experts that are chosen among."""
        return self._scar.experts()

    def layer_module(self, layer: int) -> nn.Module | None:
        """The choice, at the first layer with deltas."""
        return LikeliestExpert(self._confidence) if layer == first_layer(self.experts()) else None

    def prior_network(self) -> PriorNetwork:
        """SCAR's early prior; UsageError where none was fitted."""
        network = self._scar.prior_network()
        if network is None:
            raise UsageError("router 'prompt' needs the early prior: fit the router 'scar' again")
        return network

    def content(self) -> str:
        """The experts and the fitted prior."""
        return hashlib.sha256(f"prompt {self._scar.content()}".encode()).hexdigest()

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Fit the router `scar`, whose prior this one uses."""
        ScarRouter(experts=self._choice).fit(examples)

    @cached_property
    def _scar(self) -> ScarRouter:
        return ScarRouter(experts=self._choice, prior="early")
