"""Adaptive Knowledge Preservation: what keeps a model's general skill while it learns a domain.

    L = L_task + alpha * KL(base || model) on general text + lambda * sum_i F_i * delta_i^2

The second term is distillation from the base ("Learning without Forgetting", arXiv 1606.09282), the third
elastic weight consolidation (arXiv 1612.00796), with the base's diagonal Fisher information `F`. That
both weights are multipliers of one constraint, the loss on general text, and follow it by dual ascent, is
GEM's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from attrs import validators
from torch import Tensor

from gem_experts.training.losses import cross_entropy, head_loss
from gem_experts.training.model import read_pass
from gem_experts.training.sequences import TokenText, make_pass

if TYPE_CHECKING:
    from gemcore.models.decoder import Decoder

MODES = ("separate", "online")
"""How the importances of several general sources become one; names as in avalanche's EWC."""


@attrs.frozen(kw_only=True)
class PreservationSettings:
    """How much is preserved, and how.

    Attributes:
        epsilon: how much the loss on general text may rise, as a share of the base's.
        alpha: first weight of the divergence from the base.
        ewc_lambda: first weight of the penalty; with 0 there is none, and no importances are measured.
        rate: how fast the multipliers follow: the change of their logarithm at a step, where the rise is
            twice what it may be.
        mode: `separate` takes the mean of the sources' importances; `online` adds them up one after the
            other, what was there before times `decay_factor`.
        decay_factor: see `mode`.
        fisher_texts: how many general texts importances are measured on.
    """

    epsilon: float = attrs.field(default=0.01, validator=validators.gt(0))
    alpha: float = attrs.field(default=0.1, validator=validators.ge(0))
    ewc_lambda: float = attrs.field(default=0.1, validator=validators.ge(0))
    rate: float = attrs.field(default=0.1, validator=validators.gt(0))
    mode: str = attrs.field(default="separate", validator=validators.in_(MODES))
    decay_factor: float = attrs.field(default=0.9, validator=validators.gt(0))
    fisher_texts: int = attrs.field(default=28, validator=validators.ge(1))


@attrs.frozen(kw_only=True)
class Multipliers:
    """The weights of both terms, and the rise of the general loss that they follow.

    Attributes:
        alpha, penalty: weights of the divergence and of the penalty.
        rise: running mean of the rise of the loss on general text, as a share of the base's.
        count: how many measurements are in it.
    """

    alpha: float
    penalty: float
    rise: float = 0.0
    count: int = 0


SMOOTHING = 0.8
"""Share of the past in the running mean: one pass of general text is a noisy measurement."""

LARGEST_STEP = 3.0
LEAST, MOST = 1e-4, 1e3


def ascend(now: Multipliers, rise: float, settings: PreservationSettings) -> Multipliers:
    """One step of dual ascent on `rise <= epsilon`.

    Both multipliers are multiplied by `exp(rate * (rise - epsilon) / epsilon)`: exponentiated gradient
    ascent (Kivinen and Warmuth, 1997), by which they grow while the constraint is violated, shrink while
    there is slack, and stay positive. The exponent has a limit, so that one bad pass does no harm.

    Args:
        now: the multipliers.
        rise: of the loss on general text over the base's on the same text, as a share of it.
        settings: `epsilon` and `rate`.
    """
    # As in Adam, the mean of few measurements is not held down by the zero that it starts from.
    kept = SMOOTHING * (1 - SMOOTHING**now.count)
    mean = (kept * now.rise + (1 - SMOOTHING) * rise) / (1 - SMOOTHING ** (now.count + 1))
    violation = (mean - settings.epsilon) / settings.epsilon
    factor = math.exp(settings.rate * max(-LARGEST_STEP, min(LARGEST_STEP, violation)))

    def moved(value: float) -> float:
        return min(MOST, max(LEAST, value * factor)) if value else 0.0

    return Multipliers(
        alpha=moved(now.alpha), penalty=moved(now.penalty), rise=mean, count=now.count + 1
    )


def fisher_information(
    decoder: Decoder,
    weights: Mapping[str, Tensor],
    texts: Sequence[TokenText],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """The base model's diagonal Fisher information per token, by text.

    For each text the squared gradient of its summed negative log-likelihood, over its number of tokens;
    the mean over texts. It is the empirical Fisher, of the texts' own tokens. In these units
    `0.5 * sum(F * delta**2)` is the rise of the loss in nats a token that a small `delta` causes, to
    second order.

    Args:
        decoder: the model; its experts stay silent.
        weights: the weights that are asked about, by name; all are leaves.
        texts: one backward pass each.
        progress: called with texts done and texts in all.

    Returns:
        float32 of each weight's shape.
    """
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    before = {name: weight.requires_grad for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_()
    try:
        for done, text in enumerate(texts, start=1):
            made = make_pass([text])
            targets = torch.from_numpy(made.targets)
            hidden = read_pass(decoder, made, expert=False)
            loss = cross_entropy(targets, torch.ones(targets.numel()))
            nats = head_loss(hidden, decoder.head.weight, loss)
            gradients = torch.autograd.grad(nats, list(weights.values()))
            for name, gradient in zip(weights, gradients, strict=True):
                found[name].addcmul_(gradient, gradient, value=1 / (targets.numel() * len(texts)))
            if progress is not None:
                progress(done, len(texts))
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])
    return found


def combine(
    importances: Iterable[Mapping[str, Tensor]], settings: PreservationSettings
) -> dict[str, Tensor]:
    """The importances of several sources as one, by the settings' `mode`."""
    total: dict[str, Tensor] = {}
    count = 0
    decay = settings.decay_factor if settings.mode == "online" else 1.0
    for one in importances:
        count += 1
        for name, values in one.items():
            total[name] = total[name] * decay + values if name in total else values.clone()
    if settings.mode == "separate":
        for values in total.values():
            values.div_(count)
    return total


def penalty(
    importances: Mapping[str, Tensor], deltas: Mapping[str, Callable[[], Tensor]]
) -> Tensor:
    """`sum F * delta**2`, with its gradient; a unit's delta exists only while it is looked at."""
    total = torch.zeros(())
    for name, importance in importances.items():
        total = total + _Weighted.apply(deltas[name](), importance)
    return total


class _Weighted(torch.autograd.Function):
    """`sum(F * delta**2)`, keeping one product for the backward pass rather than three."""

    @staticmethod
    def forward(ctx: object, delta: Tensor, importance: Tensor) -> Tensor:
        weighted = delta * importance
        ctx.weighted = weighted  # type: ignore[attr-defined]
        return torch.dot(weighted.flatten(), delta.flatten())

    @staticmethod
    def backward(ctx: object, *outputs: Tensor) -> tuple[Tensor, None]:
        return 2 * ctx.weighted * outputs[0], None  # type: ignore[attr-defined]


def low_rank_deltas(decoder: Decoder, units: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
    """For each unit a function that makes its delta `[out, in]` of the expert's factors."""

    def delta(unit: str) -> Callable[[], Tensor]:
        linear = decoder.get_submodule(unit)
        return lambda: (linear.down[0] @ linear.up[0]).T

    return {unit: delta(unit) for unit in units}


def full_deltas(
    parameters: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """For each parameter a function that makes its change from the base."""

    def delta(name: str) -> Callable[[], Tensor]:
        return lambda: parameters[name] - base[name]

    return {name: delta(name) for name in parameters}
