"""Fitting SCAR and its priors to the experts of a set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from gem_scar.attention import ScarSettings
from gem_scar.calibrate import (
    Trial,
    calibrate_clusters,
    certainty_thresholds,
    choose_tau,
    held_out_texts,
    likeliest_temperature,
    passes,
    prior_shares,
    source_folds,
    unseen_logits,
)
from gem_scar.examples import Example, check_labels, sources_of
from gem_scar.fit_options import FitOptions
from gem_scar.fitted import FittedRouter, Floats, write_fitted
from gem_scar.gains import answer_gains
from gem_scar.gather import Gathered, Progress, gather, ignore
from gem_scar.hidden_states import base_checkpoint
from gem_scar.train import Clusters, train_clusters, train_prior
from gemcore.errors import UsageError
from gemcore.experts.expert_set import ExpertSet
from gemcore.models.checkpoint import Checkpoint

NAME = "scar"


def fit_set(
    experts: ExpertSet,
    examples: Sequence[Example],
    options: FitOptions | None = None,
    progress: Progress = ignore,
    checkpoint: Checkpoint | None = None,
) -> list[str]:
    """Fit to a set of experts and write `router.scar.safetensors` into its folder.

    Args:
        experts: of a folder.
        examples: labelled with the experts' names or `none`.
        options: how; the defaults are those that GEM's own router was made with.
        progress: called with the name of a step, what is done and what there is.
        checkpoint: the base model; if not given, it is opened by the name that the set has for it.

    Returns:
        Lines that say what came out.

    Raises:
        UsageError: too few examples, unknown labels, or a base that is not the experts'.
        GemError: the file cannot be written, or the encoder cannot be fetched.
    """
    options = options or FitOptions()
    check_labels(examples, experts.names)
    if experts.folder is None:
        raise UsageError("a router is fitted for experts in a folder, and these are in none")
    checkpoint = checkpoint or base_checkpoint(experts)
    experts.check_base(checkpoint)
    check_layer(options, checkpoint)
    data = gather(checkpoint, examples, experts.names, options, progress)
    gains = source_gains(checkpoint, experts, examples, data, options, progress)
    data = attrs.evolve(data, gains=gains)
    fitted, report = fit_data(data, experts, options, progress)
    fitted = attrs.evolve(fitted, settings={**fitted.settings, "data": sources_of(examples)})
    path = write_fitted(experts.folder, fitted)
    return [*report, f"wrote {path}"]


def source_gains(
    checkpoint: Checkpoint,
    experts: ExpertSet,
    examples: Sequence[Example],
    data: Gathered,
    options: FitOptions,
    progress: Progress,
) -> Tensor | None:
    """What each expert saves on answers, by source, for each text: float32 `[texts, experts]`.

    A single answer is a few tokens, and says little: all texts of a source get the mean over some of
    its answers, and those of a source without any get zeros.

    Returns:
        None where no example has an answer, or none is to be measured.
    """
    chosen: dict[str, list[tuple[str, str]]] = {}
    for example in examples:
        found = chosen.setdefault(example.source, [])
        if example.pair is not None and len(found) < options.answers:
            found.append(example.pair)
    pairs = [pair for found in chosen.values() for pair in found]
    if not pairs:
        return None
    gains = answer_gains(
        checkpoint, experts, pairs, options.longest, partial(progress, "asking the experts")
    )
    means = torch.zeros(len(chosen), len(experts.names))
    start = 0
    for number, found in enumerate(chosen.values()):
        if found:
            means[number] = gains[start : start + len(found)].mean(0)
        start += len(found)
    return means[data.sources]


def check_layer(options: FitOptions, checkpoint: Checkpoint) -> None:
    """Raise UsageError where the model has no such layer to route at."""
    layers = checkpoint.config.layers
    if not 0 <= options.layer < layers:
        raise UsageError(
            f"layer {options.layer} cannot route: model '{checkpoint.name}' has layers 0 to "
            f"{layers - 1}"
        )


def fit_data(
    data: Gathered, experts: ExpertSet, options: FitOptions, progress: Progress = ignore
) -> tuple[FittedRouter, list[str]]:
    """Fit on gathered states; see `fit_set`."""
    held_out = held_out_texts(data, options.held_out)
    if not held_out.any():
        raise UsageError(
            "the examples are too few to choose thresholds: at least three of some source are needed"
        )
    owners = _owners(data, len(experts.names))
    tried = train_clusters(
        data.of_texts(~held_out), owners.shape[1], options, partial(progress, "training")
    )
    last = train_clusters(data, owners.shape[1], options, partial(progress, "training"))
    tried = attrs.evolve(tried, temperature=last.temperature)
    calibrate = partial(_calibrated, data, held_out, tried, owners, options)
    settings, tensors, lines = calibrate("prior", data.pooled)
    settings |= {
        "prior_layers": min(options.prior_layers, options.layer),
        "prior_longest": options.longest,
    }
    if data.embedded is not None:
        own, more, said = calibrate("encoder", data.embedded)
        own |= {"model": data.encoder}
        settings, tensors = settings | {"encoder": own}, tensors | more
        lines += [f"with the encoder: {line}" for line in said]
    fitted = FittedRouter(
        router=NAME,
        base=experts.base,
        experts=experts.names,
        sha256=tuple(expert.digest for expert in experts.experts),
        settings={**settings, "layer": options.layer, "options": attrs.asdict(options)},
        tensors={
            "query": last.query.numpy(),
            "keys": last.keys.numpy(),
            "values": last.values.numpy(),
            **tensors,
        },
    )
    return fitted, [f"{len(data.labels)} texts, {len(data.states)} states of tokens", *lines]


def _calibrated(
    data: Gathered,
    held_out: Tensor,
    clusters: Clusters,
    owners: Tensor,
    options: FitOptions,
    name: str,
    points: Tensor,
) -> tuple[dict[str, Any], dict[str, Floats], list[str]]:
    """The prior of the texts' `points`: settings that suit it, tensors named `name`, and a report."""
    count, experts = owners.shape
    logits = unseen_logits(points, data.sources, count, options.decay, options.folds)
    thresholds = certainty_thresholds(logits, data.sources, options.familiar)
    temperature = likeliest_temperature(logits, data.sources)
    trial = Trial(
        clusters=clusters,
        data=data.of_texts(held_out),
        owners=owners,
        logits=logits[held_out],
        thresholds=thresholds,
    )
    shares = prior_shares(trial, temperature)
    start = ScarSettings(temperature=clusters.temperature)
    settings = calibrate_clusters(trial, shares, start, options.familiar)
    settings, report = choose_tau(trial, shares, settings, options.penalty)
    likeliest = (logits.softmax(-1) @ owners).argmax(-1)
    right = (likeliest == data.labels)[data.labels < experts]
    lines = [
        f"the prior names the right expert for {_share(right)} of texts that it was not fitted on",
        f"it is sure of {_share(passes(logits, thresholds))} of them",
    ]
    unfamiliar = [passes(found, thresholds) for found in _of_left_out(data, points, count, options)]
    if unfamiliar:
        share = _share(torch.cat(unfamiliar))
        lines.append(f"and of {share} of those of benchmarks that it was not fitted on")
    weight, bias = train_prior(points, data.sources, count, options.decay)
    return (
        {
            **attrs.asdict(settings),
            "prior_temperature": temperature,
            "prior_typical": float(logits.amax(-1).mean()),
        },
        {
            f"{name}.weight": weight.numpy(),
            f"{name}.bias": bias.numpy(),
            f"{name}.owners": owners.numpy(),
            f"{name}.thresholds": thresholds.numpy(),
            # Where its points lie, which a later expert's row is made from.
            f"{name}.mean": points.mean(0).numpy(),
            f"{name}.deviation": points.std(0).clamp(min=1e-6).numpy(),
        },
        [*lines, *(f"held-out texts, {name}: {value:.3f}" for name, value in report.items())],
    )


def _share(flags: Tensor) -> str:
    return f"{float(flags.float().mean()):.1%}"


def _of_left_out(
    data: Gathered, points: Tensor, count: int, options: FitOptions
) -> Iterator[Tensor]:
    """What a prior says of the texts of sources that are left out, one group after another."""
    for left_out in source_folds(data, options.folds):
        rest = ~left_out
        weight, bias = train_prior(points[rest], data.sources[rest], count, options.decay)
        yield points[left_out] @ weight.T + bias


def _owners(data: Gathered, experts: int) -> Tensor:
    """Whose texts those of each source are: float32 `[sources, experts]`; none's for the general path."""
    count = int(data.sources.max()) + 1
    labels = torch.full((count,), experts)
    labels[data.sources.flip(0)] = data.labels.flip(0)
    return torch.nn.functional.one_hot(labels, experts + 1)[:, :experts].float()
