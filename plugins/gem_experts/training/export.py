"""What a training leaves: an expert with its card, or a whole model with a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from gem_experts.training.folder import write_model
from gem_suite.licences import is_permissive
from gemcore.experts.card import ExpertCard
from gemcore.experts.files import write_expert
from gemcore.experts.fingerprint import base_fingerprint
from gemcore.experts.ranks import halves

if TYPE_CHECKING:
    from gem_experts.training.job import Job
    from gem_experts.training.material import Material
    from gem_experts.training.state import Standing
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.decoder import Decoder

LICENCE = "Apache-2.0"
"""Of an expert whose data is all permissive, as of GEM itself; the card names what asks for credit."""

CURVE_POINTS = 20

HalfTensors = dict[str, npt.NDArray[np.float16]]


@attrs.frozen(kw_only=True)
class Outcome:
    """What came out.

    Attributes:
        folder: of the expert or model.
        scores: as in the card.
    """

    folder: Path
    scores: Mapping[str, Any]


def write_outcome(
    job: Job,
    checkpoint: Checkpoint,
    decoder: Decoder,
    units: Sequence[str],
    material: Material,
    standing: Standing,
    measure: Callable[[], Mapping[str, float]],
) -> Outcome:
    """Round, measure and write what was trained.

    An expert is measured as it is stored, in float16: `measure` is called after rounding.

    Raises:
        FormatError: training has led to values that are not finite.
        GemError: it cannot be written.
    """
    tensors = _rounded(decoder, units)
    scores = _scores(material, standing, measure())
    if not units:
        write_model(job.folder, checkpoint, decoder, _report(job, material, standing, scores))
        return Outcome(folder=job.folder, scores=scores)
    domain = material.data.domain
    card = ExpertCard(
        name=expert_name(domain),
        domain=domain,
        summary=f"{domain.replace('_', ' ')}, rank {job.expert.rank}, trained by gem experts train",
        base=base_fingerprint(checkpoint),
        base_name=job.base_name,
        rank=job.expert.rank,
        units=tuple(units),
        licence=licence_of(material),
        data=material.data.sources,
        command=job.command,
        seed=job.seed,
        steps=standing.step,
        scores=scores,
        sha256="",
    )
    written = write_expert(job.folder, card, tensors)
    assert written.folder is not None
    return Outcome(folder=written.folder, scores=scores)


def expert_name(domain: str) -> str:
    """A domain as an expert's name: lower case, and of the characters that names may have."""
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789._-"
    return "".join(c if c in allowed else "-" for c in domain.lower())[:64].strip("._-") or "expert"


def licence_of(material: Material) -> str:
    """The licence of what was trained on this data."""
    doubtful = [
        source.name for source in material.data.sources if not is_permissive(source.licence)
    ]
    if not doubtful:
        return LICENCE
    return f"not to be passed on: the licences of {', '.join(doubtful)} do not permit it"


def _rounded(decoder: Decoder, units: Sequence[str]) -> HalfTensors:
    """The deltas in float16; the decoder goes on with the rounded ones."""
    tensors: HalfTensors = {}
    parameters = dict(decoder.named_parameters())
    for unit in units:
        pair = [parameters[f"{unit}.{end}"] for end in ("down", "up")]
        arrays = [parameter.detach()[0].numpy() for parameter in pair]
        rounded = halves(arrays[0], arrays[1], what=f"the delta of {unit}")
        for end, parameter, half in zip(("down", "up"), pair, rounded, strict=True):
            tensors[f"{unit}.{end}"] = half
            parameter.data[0] = torch.from_numpy(half.astype(np.float32))
    return tensors


def _scores(material: Material, standing: Standing, after: Mapping[str, float]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name, found in after.items():
        base = standing.before[name]
        change = found / base - 1
        scores[f"bits_per_byte_{name}"] = {
            "base": round(base, 6),
            "expert": round(found, 6),
            "change": round(change, 6),
        }
    domain = scores.get("bits_per_byte_domain")
    if domain is not None:
        label = f"bits per byte, {material.data.domain}, held out"
        scores = {
            "main": {"name": label, "base": domain["base"], "expert": domain["expert"]},
            **scores,
        }
    history = standing.history
    every = max(1, len(history) // CURVE_POINTS)
    scores["curve"] = [dict(record) for record in history[every - 1 :: every]]
    return scores


def _report(
    job: Job, material: Material, standing: Standing, scores: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "domain": material.data.domain,
        "base_name": job.base_name,
        "licence": licence_of(material),
        "data": [attrs.asdict(source) for source in material.data.sources],
        "command": job.command,
        "seed": job.seed,
        "steps": standing.step,
        "scores": dict(scores),
    }
