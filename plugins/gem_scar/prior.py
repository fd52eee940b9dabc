"""Priors: what a prompt is about, told from the base model's own first layers, or by a sentence encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gemcore.models import ops


class PooledClassifier(nn.Module):
    """A linear classifier of the mean and the spread of a prompt's hidden states.

    That is statistics pooling (D. Snyder and others, "X-vectors", ICASSP 2018). The last class is the
    general path; what it gets, the experts lack.

    Args:
        weight: float32 `[experts + 1, 2 * hidden]`, for mean and spread.
        bias: float32 `[experts + 1]`.
        temperature: the logits are divided by it (arXiv 1706.04599), so that the shares can be
            believed.
    """

    def __init__(self, weight: Tensor, bias: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.temperature = temperature

    def forward(self, states: Tensor) -> Tensor:
        """`states` float32 `[tokens, hidden]` of one prompt to its prior, float32 `[experts]`."""
        return _shares(pooled(states), self.weight, self.bias, self.temperature)


class EmbeddingClassifier(nn.Module):
    """A linear classifier of a text's embedding. The last class is the general path.

    Args:
        encoder: from token ids to a vector `[width]`, such as `gem_scar.encoder.MiniLM`.
        weight: float32 `[experts + 1, width]`.
        bias: float32 `[experts + 1]`.
        temperature: as in `PooledClassifier`.
    """

    def __init__(
        self, encoder: nn.Module, weight: Tensor, bias: Tensor, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.temperature = temperature

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` int32 `[tokens]` of one prompt to its prior, float32 `[experts]`."""
        return _shares(self.encoder(tokens), self.weight, self.bias, self.temperature)


def _shares(features: Tensor, weight: Tensor, bias: Tensor, temperature: float) -> Tensor:
    """Shares of all classes but the last: features `[width]`, weight `[width, classes]`."""
    logits = ops.linear_f32(features[None], weight)[0] + bias
    return torch.softmax(logits / temperature, dim=-1)[:-1]


def pooled(states: Tensor) -> Tensor:
    """Mean and standard deviation of normed states over the tokens: `[tokens, hidden]` to `[2 * hidden]`.

    The norm is without a gain: it keeps a few huge channels of some tokens from deciding everything.
    """
    normed = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-5)
    mean = normed.mean(0)
    return torch.cat([mean, (normed - mean).square().mean(0).sqrt()])
