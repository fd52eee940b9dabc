"""`oracle`: the caller says with each request which experts work; for measurements.

It is the bound that a router can be measured against: with the right expert of every text it shows
what perfect routing by prompt would bring.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from gem_routers.opening import first_layer
from gem_scar.fitted import open_experts

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet


class PriorAsWeights(nn.Module):
    """Gives every token its request's prior as it is."""

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]` to weights `[tokens, experts]`."""
        return prior * 1.0


class OracleRouter:
    """Uses the prior that a request brings: `session.stream(prompt, prior={"law": 1.0})`.

    A request without one takes the general path.

    Args:
        experts: a set's name or its folder; None for the default set.
    """

    def __init__(self, experts: str | None = None) -> None:
        self._choice = experts

    def prior(self, prompt: str) -> None:
        """Have no opinion on any prompt: the caller has."""

    def experts(self) -> ExpertSet:
        """The experts that the caller may name."""
        return self._experts

    def layer_module(self, layer: int) -> nn.Module | None:
        """The prior as weights, at the first layer with deltas."""
        return PriorAsWeights() if layer == first_layer(self._experts) else None

    def content(self) -> str:
        """The experts that the compiled model holds."""
        return self._experts.digest

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Return at once: there is nothing to learn."""

    @cached_property
    def _experts(self) -> ExpertSet:
        return open_experts(self._choice)
