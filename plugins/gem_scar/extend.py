"""A new expert for a fitted router: its keys are computed from a few texts, and nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import torch

from gem_scar import encoder_files
from gem_scar.clusters import centroids
from gem_scar.embed import embed
from gem_scar.fitted import (
    FittedRouter,
    Floats,
    read_fitted,
    tensor,
    with_encoder,
    write_fitted,
)
from gem_scar.gather import ignore
from gem_scar.hidden_states import FirstLayers, base_checkpoint
from gem_scar.prior import certainty, pooled
from gem_scar.router import NAME, routing_layer, setting
from gemcore.errors import UsageError, unknown_name
from gemcore.experts.expert_set import ExpertSet, read_set
from gemcore.models.checkpoint import Checkpoint


def extend_set(
    folder: Path, name: str, texts: Sequence[str], checkpoint: Checkpoint | None = None
) -> Path:
    """Write the fitted file of a set anew, with keys for expert `name`, which has just joined it.

    The keys are centroids of the projected states of the texts' tokens. What belongs to the other
    experts keeps its bits.

    Args:
        folder: the set's.
        name: the new expert's.
        texts: of its domain; a dozen is enough to begin with.
        checkpoint: the base model; if not given, it is opened by the name that the set has for it.

    Raises:
        UsageError: no texts, no such expert, no fitted file, or more experts than this one are new.
        FormatError: the fitted file is malformed.
    """
    experts = read_set(folder)
    if name not in experts.names:
        raise unknown_name("expert", name, experts.names)
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UsageError(f"router '{NAME}' needs a few texts to learn expert '{name}' from")
    fitted = without(read_fitted(folder, NAME), name)
    others = tuple(other for other in experts.names if other != name)
    if fitted.experts != others:
        odd = sorted(set(fitted.experts) ^ set(others)) or list(others)
        raise UsageError(
            f"router '{NAME}' cannot learn '{name}' alone: it was fitted without '{odd[0]}' in its "
            f"place; fit it again with gem experts fit-router --router {NAME} --data DIR"
        )
    checkpoint = checkpoint or base_checkpoint(experts)
    experts.check_base(checkpoint)
    return write_fitted(folder, _extended(fitted, experts, name, texts, checkpoint))


def without(fitted: FittedRouter, name: str) -> FittedRouter:
    """The fitted router as it was before expert `name`; as it is where it does not know `name`."""
    if name not in fitted.experts:
        return fitted
    place = fitted.experts.index(name)
    values = fitted.tensors["values"]
    kept = values[:, place] == 0
    tensors = dict(fitted.tensors)
    tensors["keys"] = tensors["keys"][kept]
    tensors["values"] = np.delete(values[kept], place, axis=1)
    for prior in ("prior", "encoder"):
        if f"{prior}.owners" in tensors:
            owners = tensors[f"{prior}.owners"]
            others = owners[:, place] == 0
            for part in ("weight", "bias", "thresholds"):
                tensors[f"{prior}.{part}"] = tensors[f"{prior}.{part}"][others]
            tensors[f"{prior}.owners"] = np.delete(owners[others], place, axis=1)
    return attrs.evolve(
        fitted,
        experts=tuple(other for other in fitted.experts if other != name),
        sha256=tuple(d for i, d in enumerate(fitted.sha256) if i != place),
        tensors=tensors,
    )


def _extended(
    fitted: FittedRouter,
    experts: ExpertSet,
    name: str,
    texts: Sequence[str],
    checkpoint: Checkpoint,
) -> FittedRouter:
    folder, place = experts.folder, experts.names.index(name)
    layer = routing_layer(fitted, folder)
    prior_layers = setting(fitted, "prior_layers", int, folder)
    net = FirstLayers(checkpoint, layer, setting(fitted, "prior_longest", int, folder))
    query = torch.from_numpy(tensor(fitted, "query", (None, None), folder))
    keys = tensor(fitted, "keys", (None, query.shape[0]), folder)
    values = tensor(fitted, "values", (len(keys), len(fitted.experts)), folder)
    points, means = [], []
    for after in net.states([net.tokens(text) for text in texts], (prior_layers, layer)):
        points.append((net.norm(after[layer]) @ query.T).detach())
        means.append(pooled(after[prior_layers]))
    count = max(1, round(float(values.sum()) / values.shape[1]))
    new = centroids(torch.cat(points), count, seed=0).numpy()
    column = np.zeros((len(keys), 1), dtype=np.float32)
    grown = np.concatenate([values[:, :place], column, values[:, place:]], axis=1)
    rows = np.eye(len(experts.names), dtype=np.float32)[[place] * count]
    tensors = dict(fitted.tensors)
    tensors["keys"], tensors["values"] = np.concatenate([keys, new]), np.concatenate([grown, rows])
    if "prior.weight" in tensors:
        _add_row(tensors, "prior", place, torch.stack(means), fitted, folder)
    if "encoder.weight" in tensors:
        points = embed(texts, encoder_files.minilm_files(), ignore)
        _add_row(tensors, "encoder", place, points, with_encoder(fitted, folder), folder)
    return attrs.evolve(
        fitted,
        experts=experts.names,
        sha256=tuple(expert.digest for expert in experts.experts),
        tensors=tensors,
    )


def _add_row(
    tensors: dict[str, Floats],
    name: str,
    place: int,
    points: torch.Tensor,
    fitted: FittedRouter,
    folder: Path | None,
) -> None:
    """Give the classifier `name` a source for a new expert, told from points `[texts, width]`."""
    size = tensors[f"{name}.weight"].shape[1]
    row, bias = prior_row(
        points.mean(0).numpy(),
        tensor(fitted, f"{name}.mean", (size,), folder),
        tensor(fitted, f"{name}.deviation", (size,), folder),
        setting(fitted, "prior_typical", float, folder),
    )
    sources = len(tensors[f"{name}.weight"])
    owners = tensor(fitted, f"{name}.owners", (sources, len(fitted.experts)), folder)
    grown = np.insert(owners, place, 0, axis=1)
    own = np.eye(grown.shape[1], dtype=np.float32)[[place]]
    tensors[f"{name}.weight"] = np.concatenate([tensors[f"{name}.weight"], row[None]])
    tensors[f"{name}.bias"] = np.append(tensors[f"{name}.bias"], np.float32(bias))
    tensors[f"{name}.owners"] = np.concatenate([grown, own])
    # A few texts, which the row was made of, do not tell well how certain others will be: as much as the
    # vaguest of them, or as those of the vaguest source.
    logits = points @ torch.from_numpy(tensors[f"{name}.weight"]).T + torch.from_numpy(
        tensors[f"{name}.bias"]
    )
    vaguest = float(certainty(logits.softmax(-1)).min())
    thresholds = tensor(fitted, f"{name}.thresholds", (sources,), folder)
    lowest = np.float32(min(vaguest, thresholds.min()))
    tensors[f"{name}.thresholds"] = np.append(thresholds, lowest)


def prior_row(new: Floats, mean: Floats, deviation: Floats, typical: float) -> tuple[Floats, float]:
    """Weight and bias of a new expert in the prior, from the mean of its texts alone.

    The row points from the mean of all texts to that of the new ones, in units of the deviation (weight
    imprinting, arXiv 1712.07136); it gives a text like the mean of all a logit of 0, and one like the new
    ones that which the right expert of a familiar text typically gets.
    """
    direction = (new - mean) / deviation
    length = float(np.square(direction).sum())
    row = direction * typical / max(length, 1e-6) / deviation
    return row.astype(np.float32), -float(row @ mean)
