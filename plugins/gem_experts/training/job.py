"""One training from data to a finished expert or model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import validators

from gem_experts.training.export import Outcome, write_outcome
from gem_experts.training.loop import (
    GeneralPass,
    LoopSettings,
    Preservation,
    arithmetic,
    first_multipliers,
    new_optimizer,
    read_general,
    train,
)
from gem_experts.training.measure import bits_per_byte
from gem_experts.training.model import choose_units, in_full, trained, with_expert
from gem_experts.training.preservation import (
    PreservationSettings,
    combine,
    fisher_information,
    full_deltas,
    low_rank_deltas,
)
from gem_experts.training.sequences import make_pass, pack
from gem_experts.training.state import (
    Standing,
    clear_state,
    load_state,
    save_state,
    settings_digest,
)
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gem_experts.training.material import Material
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.decoder import Decoder

Say = Callable[[str, int, int], None]
"""What is going on, how much of it is done, and how much there is."""

StepDone = Callable[[Standing, int], None]
"""Where the training stands after a step, and how many steps there are."""


@attrs.frozen(kw_only=True)
class ExpertSettings:
    """What is trained.

    Attributes:
        rank: of the deltas.
        layers: the first layer with deltas, and the one after the last.
        kinds: units with deltas, without their layer.
        full: every weight instead.
    """

    rank: int = attrs.field(default=16, validator=[validators.ge(1), validators.le(1024)])
    layers: tuple[int, int] = (8, 30)
    kinds: tuple[str, ...] = ("attention.qkv", "feed_forward.down")
    full: bool = False


@attrs.frozen(kw_only=True)
class Job:
    """All that a training depends on, beside model and texts.

    Attributes:
        expert: what is trained.
        loop: how.
        preservation: None: general skill is left to itself.
        seed: of order and first values.
        general_batch: tokens of a pass of general text.
        checkpoint_every: steps between two states on disk.
        command: for the card.
        base_name: what the model is called.
        folder: of the result.
    """

    expert: ExpertSettings
    loop: LoopSettings
    preservation: PreservationSettings | None
    seed: int
    general_batch: int
    checkpoint_every: int
    command: str
    base_name: str
    folder: Path

    @property
    def state_folder(self) -> Path:
        """Where an unfinished training stands, beside its result."""
        return self.folder.with_name(f".{self.folder.name}.training")


def run_job(
    job: Job, checkpoint: Checkpoint, material: Material, say: Say, step_done: StepDone
) -> Outcome:
    """Train, measure before and after, and write the result.

    A run that was ended early goes on where its last state was written.

    Raises:
        UsageError: the result's folder exists, the model has no such layers, or an unfinished training
            with other settings is there.
        GemError: it cannot be written.
    """
    if job.folder.exists():
        raise UsageError(f"{job.folder} exists already: choose another name, or remove it first")
    units = [] if job.expert.full else _units(job, checkpoint)
    if job.expert.full:
        decoder = in_full(checkpoint)
    else:
        decoder = with_expert(checkpoint, units, job.expert.rank, job.seed)
    parameters = trained(decoder)
    base = {name: value.detach().clone() for name, value in parameters.items()} if not units else {}
    optimizer = new_optimizer(parameters, job.loop)
    digest = settings_digest(_identity(job, checkpoint, material))
    say("reading general text", 0, 1)
    general = _general(job, decoder, material)
    importances = _importances(job, decoder, material, units, say)
    # After everything that must see the base model.
    standing = load_state(job.state_folder, digest, parameters, optimizer)
    if standing is None:
        before = _scores(decoder, material, say, "before", expert=False)
        multipliers = first_multipliers(job.preservation) if job.preservation else {}
        standing = Standing(multipliers=multipliers, before=before)
    preservation = None
    if job.preservation is not None:
        deltas = low_rank_deltas(decoder, units) if units else full_deltas(parameters, base)
        preservation = Preservation(
            settings=job.preservation,
            general=general,
            head=_base_head(decoder, base),
            importances=importances,
            deltas=deltas,
        )

    def after_step(now: Standing) -> None:
        step_done(now, job.loop.steps)
        if now.step % job.checkpoint_every == 0 and now.step < job.loop.steps:
            save_state(job.state_folder, digest, now, parameters, optimizer)

    standing = train(
        decoder,
        parameters,
        optimizer,
        material.mixture,
        job.loop,
        standing=standing,
        preservation=preservation,
        after_step=after_step,
    )
    outcome = write_outcome(
        job,
        checkpoint,
        decoder,
        units,
        material,
        standing,
        lambda: _scores(decoder, material, say, "after", expert=True),
    )
    clear_state(job.state_folder)
    return outcome


def _base_head(decoder: Decoder, base: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The head as it was before training; the decoder's own where training does not move it."""
    name = "embedding.weight" if decoder.config.tied_head else "head.weight"
    found: torch.Tensor = base.get(name, decoder.head.weight)
    return found


def _units(job: Job, checkpoint: Checkpoint) -> list[str]:
    return choose_units(checkpoint.config, job.expert.layers, job.expert.kinds)


def _general(job: Job, decoder: Decoder, material: Material) -> list[GeneralPass]:
    if job.preservation is None:
        return []
    # Sources in turn, so that every pass has some of each.
    texts = [text for group in _rounds(list(material.general.values())) for text in group]
    passes = [make_pass(chosen) for chosen in pack(texts, job.general_batch)]
    return read_general(decoder, passes, job.loop.precision)


def _importances(
    job: Job, decoder: Decoder, material: Material, units: Sequence[str], say: Say
) -> dict[str, torch.Tensor]:
    settings = job.preservation
    if settings is None or settings.ewc_lambda == 0:
        return {}
    parameters = dict(decoder.named_parameters())
    named = {unit: parameters[f"{unit}.base.weight"] for unit in units} or trained(decoder)
    count = max(1, settings.fisher_texts // len(material.general))
    groups = [texts[:count] for texts in material.general.values()]
    total, done = sum(map(len, groups)), 0
    found = []
    for texts in groups:
        start = done
        with arithmetic(job.loop.precision):
            found.append(
                fisher_information(
                    decoder,
                    named,
                    texts,
                    lambda n, _, start=start: say("measuring importances", start + n, total),  # type: ignore[misc]
                )
            )
        done += len(texts)
    return combine(found, settings)


def _scores(
    decoder: Decoder, material: Material, say: Say, when: str, *, expert: bool
) -> dict[str, float]:
    held = {"domain": material.heldout, "general": material.general_heldout}
    return {
        name: bits_per_byte(
            decoder,
            texts,
            material.mixture.batch_tokens,
            expert=expert,
            progress=lambda done, total, name=name: say(  # type: ignore[misc]
                f"held-out text, {name}, {when}", done, total
            ),
        )
        for name, texts in held.items()
        if texts
    }


def _rounds(groups: Sequence[Sequence[Any]]) -> list[list[Any]]:
    longest = max(map(len, groups), default=0)
    return [[group[n] for group in groups if n < len(group)] for n in range(longest)]


def _identity(job: Job, checkpoint: Checkpoint, material: Material) -> Mapping[str, Any]:
    """What makes two trainings the same; threads are not among it, nor how often states are written."""
    values = attrs.asdict(attrs.evolve(job, checkpoint_every=1, command="", base_name=""))
    return {
        **values,
        "model": checkpoint.identity,
        "data": material.digest,
        "torch": torch.__version__,
    }
