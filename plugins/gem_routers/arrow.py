"""`arrow`: keys from the experts' own weights, nothing trained.

Arrow (arXiv 2405.11157, "Towards Modular LLMs by Building and Reusing a Library of LoRAs") takes for
an expert's key at each layer the right singular vector of its delta with the largest singular value:
the input that the delta acts on most. A token scores each expert by the size of its input along the
key, and mixes the `top_k` best by a softmax of the scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gem_scar.attention import rank_of
from gem_scar.fitted import open_experts
from gemcore.errors import UsageError
from gemcore.models import ops

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet

KIND = "attention.qkv"
"""The unit of a layer whose input is what routers read: the hidden states after the first norm."""


class ArrowMixture(nn.Module):
    """Softmax over the `top_k` experts along whose keys a token's input is largest.

    Args:
        keys: float32 `[experts, hidden]`, of length 1.
        top_k: how many experts work.
        temperature: the scores are divided by it.
    """

    def __init__(self, keys: Tensor, top_k: int, temperature: float) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys.T.contiguous(), requires_grad=False)
        self.top_k, self.temperature = top_k, temperature

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]` to weights `[tokens, experts]`."""
        scores = ops.linear_f32(hidden, self.keys).abs() / self.temperature
        shares = torch.softmax(scores, dim=-1)
        kept = torch.where(rank_of(scores) < self.top_k, shares, 0.0)
        return kept / kept.sum(-1, keepdim=True)


class ArrowRouter:
    """Routes at every layer with deltas on `attention.qkv`, by keys computed from the experts.

    Args:
        experts: a set's name or its folder; None for the default set.
        top_k: how many experts work for each token.
        temperature: of the softmax.
    """

    def __init__(
        self, experts: str | None = None, top_k: int = 4, temperature: float = 1.0
    ) -> None:
        self._choice, self._top_k, self._temperature = experts, top_k, temperature

    def prior(self, prompt: str) -> None:
        """Have no opinion on any prompt."""

    def experts(self) -> ExpertSet:
        """The experts that are chosen among."""
        return self._experts

    def layer_module(self, layer: int) -> nn.Module | None:
        """The mixture of a layer whose `attention.qkv` has deltas."""
        unit = f"layers.{layer}.{KIND}"
        experts = self._experts
        if not any(name.endswith(KIND) for name in experts.units):
            raise UsageError(
                f"router 'arrow' needs deltas on {KIND}, and the experts of {experts.title} have none"
            )
        if unit not in experts.units:
            return None
        # An expert without a delta here can do nothing here: its key and its scores are 0.
        stacks = [expert.tensors for expert in experts.experts]
        found = [
            key(t[f"{unit}.down"], t[f"{unit}.up"]) if f"{unit}.up" in t else None for t in stacks
        ]
        nothing = np.zeros_like(next(row for row in found if row is not None))
        rows = [nothing if row is None else row for row in found]
        keys = torch.from_numpy(np.stack(rows).astype(np.float32))
        return ArrowMixture(keys, self._top_k, self._temperature)

    def content(self) -> str:
        """The experts, from which all follows."""
        return self._experts.digest

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Return at once: nothing is trained."""

    @cached_property
    def _experts(self) -> ExpertSet:
        return open_experts(self._choice)


def key(down: npt.NDArray[np.float16], up: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """The input direction that a delta acts on most: `down` `[in, rank]`, `up` `[rank, out]` to `[in]`.

    Its sign means nothing.
    """
    basis, core = np.linalg.qr(down.astype(np.float64))
    left, _, _ = np.linalg.svd(core @ up.astype(np.float64), full_matrices=False)
    direction: npt.NDArray[np.float64] = basis @ left[:, 0]
    return direction
