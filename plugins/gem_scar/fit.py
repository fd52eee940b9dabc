"""Fitting SCAR and its priors to the experts of a set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from gem_scar.attention import ScarSettings
from gem_scar.calibrate import (
    Trial,
    calibrate_clusters,
    calibrate_prior,
    choose_tau,
    held_out_texts,
    prior_shares,
    source_folds,
)
from gem_scar.examples import Example, check_labels, sources_of
from gem_scar.fit_options import FitOptions
from gem_scar.fitted import FittedRouter, Floats, write_fitted
from gem_scar.gains import answer_gains
from gem_scar.gather import Gathered, Progress, gather, ignore
from gem_scar.hidden_states import base_checkpoint
from gem_scar.train import train_clusters, train_prior
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
    trials = [_trial(data, ~held_out, held_out, True, owners, options, progress)]
    for left_out in source_folds(data, options.folds):
        step_options = attrs.evolve(options, steps=max(1, options.steps // 2))
        trials.append(_trial(data, ~left_out, left_out, False, owners, step_options, progress))
    whole = torch.ones_like(held_out)
    last = _trial(data, whole, whole, True, owners, options, progress)
    settings, tensors, lines = _early(trials, data, options, last.clusters.temperature)
    if data.embedded is not None:
        own, more, said = _encoder(trials, data, options, last.clusters.temperature)
        settings, tensors, lines = settings | {"encoder": own}, tensors | more, lines + said
    fitted = FittedRouter(
        router=NAME,
        base=experts.base,
        experts=experts.names,
        sha256=tuple(expert.digest for expert in experts.experts),
        settings={**settings, "layer": options.layer, "options": attrs.asdict(options)},
        tensors={
            "query": last.clusters.query.numpy(),
            "keys": last.clusters.keys.numpy(),
            "values": last.clusters.values.numpy(),
            **tensors,
        },
    )
    return fitted, [f"{len(data.labels)} texts, {len(data.states)} states of tokens", *lines]


def _early(
    trials: list[Trial], data: Gathered, options: FitOptions, temperature: float
) -> tuple[dict[str, Any], dict[str, Floats], list[str]]:
    """Settings, tensors and a report of the early prior, and of what works best with it."""
    settings, lines = _calibrated(trials, options, temperature)
    return (
        {
            **settings,
            "prior_layers": min(options.prior_layers, options.layer),
            "prior_longest": options.longest,
        },
        _classifier("prior", data.pooled, data, trials[0].owners, options),
        lines,
    )


def _encoder(
    trials: list[Trial], data: Gathered, options: FitOptions, temperature: float
) -> tuple[dict[str, Any], dict[str, Floats], list[str]]:
    """The same of the prior of the sentence encoder."""
    assert data.embedded is not None
    theirs = [attrs.evolve(trial, logits=trial.encoder_logits) for trial in trials]
    settings, lines = _calibrated(theirs, options, temperature)
    return (
        {**settings, "model": data.encoder},
        _classifier("encoder", data.embedded, data, trials[0].owners, options),
        [f"with the encoder: {line}" for line in lines],
    )


def _calibrated(
    trials: list[Trial], options: FitOptions, temperature: float
) -> tuple[dict[str, Any], list[str]]:
    """Settings that suit a prior's logits, and a report."""
    prior = calibrate_prior(trials)
    priors = [prior_shares(trial, prior) for trial in trials]
    settings = calibrate_clusters(trials, priors, ScarSettings(temperature=temperature))
    settings, report = choose_tau(trials, priors, settings, options.penalty)
    familiar = trials[0]
    labels = familiar.data.labels
    experts = familiar.owners.shape[1]
    likeliest = (familiar.logits.softmax(-1) @ familiar.owners).argmax(-1)
    right = (likeliest == labels)[labels < experts]
    return (
        {
            **attrs.asdict(settings),
            **{f"prior_{name}": value for name, value in attrs.asdict(prior).items()},
            "prior_typical": float(familiar.logits.amax(-1).mean()),
        },
        [
            f"prior on held-out texts: {float(right.float().mean()):.1%} right",
            *(
                f"prior's weight on texts, {n}: {v:.3f}"
                for n, v in _weights(trials, priors).items()
            ),
            *(f"on texts, {name}: {value:.3f}" for name, value in report.items()),
        ],
    )


def _weights(trials: list[Trial], priors: list[Tensor]) -> dict[str, float]:
    """Mean sum of the prior's shares on known and on unfamiliar texts."""
    found: dict[str, list[Tensor]] = {}
    for trial, prior in zip(trials, priors, strict=True):
        found.setdefault("known" if trial.known else "unfamiliar", []).append(prior.sum(-1))
    return {name: float(torch.cat(parts).mean()) for name, parts in found.items()}


def _classifier(
    name: str, points: Tensor, data: Gathered, owners: Tensor, options: FitOptions
) -> dict[str, Floats]:
    """A classifier's tensors, with where its points lie, which a later expert's row is made from."""
    weight, bias = train_prior(points, data.sources, len(owners), options.decay)
    return {
        f"{name}.weight": weight.numpy(),
        f"{name}.bias": bias.numpy(),
        f"{name}.owners": owners.numpy(),
        f"{name}.mean": points.mean(0).numpy(),
        f"{name}.deviation": points.std(0).clamp(min=1e-6).numpy(),
    }


def _owners(data: Gathered, experts: int) -> Tensor:
    """Whose texts those of each source are: float32 `[sources, experts]`; none's for the general path."""
    count = int(data.sources.max()) + 1
    labels = torch.full((count,), experts)
    labels[data.sources.flip(0)] = data.labels.flip(0)
    return torch.nn.functional.one_hot(labels, experts + 1)[:, :experts].float()


def _trial(
    data: Gathered,
    train: torch.Tensor,
    test: torch.Tensor,
    known: bool,
    owners: Tensor,
    options: FitOptions,
    progress: Progress,
) -> Trial:
    seen, rest = data.of_texts(train), data.of_texts(test)
    name = "training" if known else "training without some benchmarks"
    clusters = train_clusters(seen, owners.shape[1], options, partial(progress, name))
    count = len(owners)
    weight, bias = train_prior(seen.pooled, seen.sources, count, options.decay)
    encoder_logits = None
    if seen.embedded is not None and rest.embedded is not None:
        theirs = train_prior(seen.embedded, seen.sources, count, options.decay)
        encoder_logits = rest.embedded @ theirs[0].T + theirs[1]
    return Trial(
        clusters=clusters,
        data=rest,
        owners=owners,
        logits=rest.pooled @ weight.T + bias,
        known=known,
        encoder_logits=encoder_logits,
    )
