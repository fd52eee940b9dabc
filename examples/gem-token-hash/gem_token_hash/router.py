"""The router `token-hash`: the expert of a token is what its hash falls on, whatever the text says.

At the first layer the hidden state of a token is its row of the embedding, normalised: a function of the
token alone. The signs of its first channels are a hash of it, and no rounding moves a sign.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from gemcore.experts.expert_set import ExpertSet
from gemcore.experts.library import open_set
from gemcore.plugins import get_host
from torch import Tensor, nn

BITS = 12
"""Channels whose signs are hashed: 4096 values."""


class SignHash(nn.Module):
    """Weight for one expert of each token: the signs as a binary number, modulo the experts."""

    def __init__(self, experts: int, weight: float) -> None:
        super().__init__()
        self.experts, self.weight = experts, weight
        powers = 2.0 ** torch.arange(BITS)
        self.powers = nn.Parameter(powers, requires_grad=False)
        self.places = nn.Parameter(torch.arange(experts).float(), requires_grad=False)

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """From `[tokens, hidden]` and `[tokens, experts]` to weights `[tokens, experts]`."""
        signs = (hidden[:, :BITS] > 0).float()
        number = (signs * self.powers).sum(-1, keepdim=True)  # whole, below 2**BITS: exact
        place = number - torch.floor(number / self.experts) * self.experts
        return (place == self.places).float() * self.weight


class TokenHashRouter:
    """Hashes at the first layer; what falls there holds for all later layers."""

    def __init__(self, experts: str | None, weight: float) -> None:
        self._experts, self._weight = open_set(experts, get_host()), weight

    def prior(self, prompt: str) -> None:
        """Have no opinion on a prompt as a whole."""

    def experts(self) -> ExpertSet:
        """The experts that tokens fall on."""
        return self._experts

    def layer_module(self, layer: int) -> nn.Module | None:
        """The hash, at the first layer."""
        return SignHash(len(self._experts.names), self._weight) if layer == 0 else None

    def content(self) -> str:
        """What a compiled model depends on beside the options: the experts."""
        return self._experts.digest

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Return at once: a hash learns nothing."""
