"""Priors: what a prompt is about, told from the base model's own first layers, or by a sentence encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gemcore.models import ops

SLOPE = 8.0
"""Of the logistic function that the certainty goes through: nearly a step."""

_LEAST = 1e-6


class SourceClassifier(nn.Module):
    """What kind of text it is, by a linear map of its features, and so which experts it is for.

    Its classes are the sources that it was fitted on, benchmarks for example, of which every expert owns
    some and the general path the rest. Sources rather than experts, because they tell what is familiar: a
    text like none of them is spread over many, even where most of those belong to one expert. With `sure`
    the sum of the squared shares of the sources (the chance that two draws agree; Simpson, 1949), an
    expert's share is that of its sources times `sigmoid(SLOPE * (log(sure / (1 - sure)) - threshold))`,
    with the mean threshold of the sources, weighted by their shares; what the experts lack is the general
    path's.

    Args:
        weight: float32 `[sources, width]`.
        bias: float32 `[sources]`.
        owners: float32 `[sources, experts]`: 1 where a source is an expert's.
        thresholds: float32 `[sources]`: how certain a text like those of a source must be, as log odds,
            for the general path not to take over.
        temperature: the logits are divided by it (arXiv 1706.04599), so that the shares can be
            believed. Certainty is told from shares without it, which are spread more evenly.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        owners: Tensor,
        thresholds: Tensor,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.owners = nn.Parameter(owners.contiguous(), requires_grad=False)
        self.thresholds = nn.Parameter(thresholds[:, None].contiguous(), requires_grad=False)
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """`features` float32 `[width]` to shares float32 `[experts]`, with a sum of at most 1."""
        logits = ops.linear_f32(features[None], self.weight) + self.bias
        shares = torch.softmax(logits, dim=-1)
        threshold = ops.linear_f32(shares, self.thresholds)
        gate = torch.sigmoid(SLOPE * (certainty(shares) - threshold))
        true = torch.softmax(logits / self.temperature, dim=-1)
        return (ops.linear_f32(true, self.owners) * gate).squeeze(0)


class PooledClassifier(nn.Module):
    """A classifier of the mean and the spread of a prompt's hidden states.

    That is statistics pooling (D. Snyder and others, "X-vectors", ICASSP 2018).

    Args:
        classifier: of features `[2 * hidden]`, mean and spread.
    """

    def __init__(self, classifier: SourceClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, states: Tensor) -> Tensor:
        """`states` float32 `[tokens, hidden]` of one prompt to its prior, float32 `[experts]`."""
        found: Tensor = self.classifier(pooled(states))
        return found


class EmbeddingClassifier(nn.Module):
    """A classifier of a text's embedding.

    Args:
        encoder: from token ids to a vector `[width]`, such as `gem_scar.encoder.MiniLM`.
        classifier: of that vector.
    """

    def __init__(self, encoder: nn.Module, classifier: SourceClassifier) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` int32 `[tokens]` of one prompt to its prior, float32 `[experts]`."""
        found: Tensor = self.classifier(self.encoder(tokens))
        return found


def certainty(shares: Tensor) -> Tensor:
    """`log(sure / (1 - sure))` of shares `[texts, sources]`, `sure` their sum of squares: `[texts, 1]`."""
    sure = shares.square().sum(-1, keepdim=True)
    return torch.log(sure.clamp(min=_LEAST)) - torch.log((1 - sure).clamp(min=_LEAST))


def pooled(states: Tensor) -> Tensor:
    """Mean and standard deviation of normed states over the tokens: `[tokens, hidden]` to `[2 * hidden]`.

    The norm is without a gain: it keeps a few huge channels of some tokens from deciding everything.
    """
    normed = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-5)
    mean = normed.mean(0)
    return torch.cat([mean, (normed - mean).square().mean(0).sqrt()])
