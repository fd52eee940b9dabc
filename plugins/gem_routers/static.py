"""`static`: one expert that always works, as with an adapter that is merged into its base."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn, tensor, zeros_like

from gem_routers.opening import first_layer
from gem_scar.fitted import open_experts
from gemcore.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet


class ConstantWeights(nn.Module):
    """The same weights for every token."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(tensor(weights), requires_grad=False)

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]` to weights `[tokens, experts]`."""
        return zeros_like(prior) + self.weights


class StaticRouter:
    """Gives one expert the same weight everywhere.

    Args:
        experts: a set's name or its folder; None for the default set.
        expert: the name of the one that works.
        weight: how much.
    """

    def __init__(
        self, experts: str | None = None, expert: str | None = None, weight: float = 1.0
    ) -> None:
        self._choice, self._expert, self._weight = experts, expert, weight

    def prior(self, prompt: str) -> None:
        """Have no opinion on any prompt."""

    def experts(self) -> ExpertSet:
        """The experts, of which one works."""
        return self._experts

    def layer_module(self, layer: int) -> nn.Module | None:
        """The constant weights, at the first layer with deltas."""
        names = self._experts.names
        if self._expert is None:
            raise UsageError(
                f"router 'static' needs an expert: write static:expert=NAME with one of "
                f"{', '.join(names)}"
            )
        if self._expert not in names:
            raise unknown_name("expert", self._expert, names)
        if layer != first_layer(self._experts):
            return None
        return ConstantWeights([self._weight * (name == self._expert) for name in names])

    def content(self) -> str:
        """The experts that the compiled model holds."""
        return self._experts.digest

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Return at once: there is nothing to learn."""

    @cached_property
    def _experts(self) -> ExpertSet:
        return open_experts(self._choice)
