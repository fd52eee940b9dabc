"""The training loop: AdamW over passes of the domain's text, held to the base on general text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import validators
from torch import Tensor

from gem_experts.training.losses import cross_entropy, divergence, head_loss
from gem_experts.training.model import read_pass
from gem_experts.training.preservation import (
    Multipliers,
    PreservationSettings,
    ascend,
    penalty,
)
from gem_experts.training.schedule import learning_rate
from gem_experts.training.state import Standing

if TYPE_CHECKING:
    from gem_experts.training.sequences import Mixture, Pass
    from gemcore.models.decoder import Decoder

PRECISIONS = ("bf16", "f32")

Record = Mapping[str, Any]


@attrs.frozen(kw_only=True)
class LoopSettings:
    """How the weights are moved.

    Attributes:
        steps: of the optimizer.
        accumulate: passes of the domain's text a step.
        learning_rate: the highest; see `gem_experts.training.schedule`.
        weight_decay: of AdamW (arXiv 1711.05101).
        clip: the longest gradient, Euclidean over all parameters.
        precision: `f32`, or `bf16` for the products of matrices; all sums and parameters are float32.
    """

    steps: int = attrs.field(validator=validators.ge(1))
    accumulate: int = attrs.field(default=1, validator=validators.ge(1))
    learning_rate: float = attrs.field(default=1e-3, validator=validators.gt(0))
    weight_decay: float = attrs.field(default=0.0, validator=validators.ge(0))
    clip: float = attrs.field(default=1.0, validator=validators.gt(0))
    precision: str = attrs.field(default="f32", validator=validators.in_(PRECISIONS))


@attrs.frozen(kw_only=True, eq=False)
class GeneralPass:
    """A pass of general text with what the base model says to it.

    Attributes:
        made: the pass.
        hidden: the base's final, normed hidden states `[rows, hidden]`.
        nats: the base's mean negative log-likelihood.
    """

    made: Pass
    hidden: Tensor
    nats: float


@attrs.frozen(kw_only=True, eq=False)
class Preservation:
    """What a training is held to.

    Attributes:
        settings: see there.
        general: the passes, read in turn.
        head: the base's head, where training moves its own; else the head itself.
        importances: by name of the delta; empty without a penalty.
        deltas: makes each delta.
    """

    settings: PreservationSettings
    general: Sequence[GeneralPass]
    head: Tensor
    importances: Mapping[str, Tensor]
    deltas: Mapping[str, Callable[[], Tensor]]


def new_optimizer(parameters: Mapping[str, Tensor], settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW over the parameters."""
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        foreach=False,
    )


def arithmetic(precision: str) -> AbstractContextManager[object]:
    """Products of matrices in bfloat16, or everything in float32."""
    chosen: AbstractContextManager[object] = torch.autocast(
        "cpu", torch.bfloat16, enabled=precision == "bf16"
    )
    return chosen


def read_general(decoder: Decoder, passes: Sequence[Pass], precision: str) -> list[GeneralPass]:
    """Ask the base model, whose weights must not have been trained yet, about general text."""
    found = []
    for made in passes:
        targets = torch.from_numpy(made.targets)
        loss = cross_entropy(targets, torch.ones(targets.numel()))
        with torch.no_grad(), arithmetic(precision):
            hidden = read_pass(decoder, made, expert=False)
            nats = float(head_loss(hidden, decoder.head.weight, loss))
        found.append(GeneralPass(made=made, hidden=hidden, nats=nats / targets.numel()))
    return found


def first_multipliers(settings: PreservationSettings) -> dict[str, float]:
    """The multipliers before the first step, as a standing holds them."""
    return attrs.asdict(Multipliers(alpha=settings.alpha, penalty=settings.ewc_lambda))


def train(
    decoder: Decoder,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    mixture: Mixture,
    settings: LoopSettings,
    *,
    standing: Standing,
    preservation: Preservation | None = None,
    after_step: Callable[[Standing], None] | None = None,
) -> Standing:
    """Train until `settings.steps` steps are done, from where the training stands.

    Args:
        decoder: the model.
        parameters: what is trained.
        optimizer: of these parameters.
        mixture: the domain's text.
        settings: how.
        standing: zeros, or what an earlier run left.
        preservation: what the model is held to; None: nothing.
        after_step: called after each step.

    Returns:
        Where the training stands at the end.
    """
    passes = mixture.passes(standing.passes)
    for step in count(standing.step):
        if step >= settings.steps:
            return standing
        optimizer.zero_grad(set_to_none=True)
        task = 0.0
        for _ in range(settings.accumulate):
            task += _task_step(decoder, next(passes), settings)
        record: dict[str, Any] = {"step": step + 1, "loss": round(task, 6)}
        multipliers: dict[str, Any] = dict(standing.multipliers)
        if preservation is not None:
            general = preservation.general[step % len(preservation.general)]
            now = Multipliers(**multipliers)
            found = _preserve(decoder, preservation, general, now, settings.precision)
            now = ascend(now, found["general_rise"], preservation.settings)
            multipliers = attrs.asdict(now)
            record |= {name: float(f"{value:.6g}") for name, value in found.items()}
            record |= {"alpha": now.alpha, "lambda": now.penalty, "mean_rise": now.rise}
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.clip)
        rate = learning_rate(step, settings.steps, settings.learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        record |= {"gradient": float(f"{float(norm):.4g}"), "learning_rate": rate}
        standing = attrs.evolve(
            standing,
            step=step + 1,
            passes=standing.passes + settings.accumulate,
            multipliers=multipliers,
            history=(*standing.history, record),
        )
        if after_step is not None:
            after_step(standing)
    raise AssertionError("unreachable: count() does not end")


def task_loss(decoder: Decoder, made: Pass) -> Tensor:
    """Mean weighted negative log-likelihood of a pass of the domain's text, in nats a token."""
    weights = torch.from_numpy(made.weights)
    loss = cross_entropy(torch.from_numpy(made.targets), weights)
    return head_loss(read_pass(decoder, made), decoder.head.weight, loss) / weights.sum()


def general_terms(
    decoder: Decoder, general: GeneralPass, base_head: Tensor
) -> tuple[Tensor, float]:
    """Mean KL(base ‖ model) a token, and the rise of the model's loss over the base's, as a share."""
    targets = torch.from_numpy(general.made.targets)
    nats: list[float] = []
    loss = divergence(general.hidden, base_head, targets, nats)
    hidden = read_pass(decoder, general.made)
    apart = head_loss(hidden, decoder.head.weight, loss) / targets.numel()
    return apart, (sum(nats) / targets.numel() - general.nats) / general.nats


def _task_step(decoder: Decoder, made: Pass, settings: LoopSettings) -> float:
    with arithmetic(settings.precision):
        loss = task_loss(decoder, made)
    (loss / settings.accumulate).backward()
    return float(loss.detach()) / settings.accumulate


def _preserve(
    decoder: Decoder,
    preservation: Preservation,
    general: GeneralPass,
    now: Multipliers,
    precision: str,
) -> dict[str, float]:
    """The backward passes of both preserving terms, and what they measured."""
    with arithmetic(precision):
        apart, rise = general_terms(decoder, general, preservation.head)
    (now.alpha * apart).backward()
    found = {"divergence": float(apart.detach()), "general_rise": rise}
    if preservation.importances:
        held = penalty(preservation.importances, preservation.deltas)
        (now.penalty * held).backward()
        found["penalty"] = float(held.detach())
    return found
