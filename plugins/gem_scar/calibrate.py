"""Thresholds: how sure a router must be, told from texts that it has not seen and kinds it does not know.

Benchmarks are left out in turns. Half of what thresholds are chosen on is of that kind, and there the
general path counts as right: the experts themselves have learned these benchmarks, so what they would save
on texts that are really new cannot be told from them. What is unfamiliar takes the general path.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from gem_scar.attention import ClusterAttention, ScarSettings
from gem_scar.gather import Gathered
from gem_scar.prior import certainty
from gem_scar.train import Clusters
from gemcore.models import float_ops

TAUS = tuple(i / 20 for i in range(1, 21))
_ROUNDS = 300


@attrs.frozen(kw_only=True, eq=False)
class Trial:
    """What a router, fitted on some texts, makes of others.

    Attributes:
        clusters: the trained cluster attention.
        data: texts that it was not trained on.
        owners: float32 `[sources, experts]`: whose texts those of a source are.
        logits: of the prior for those texts, float32 `[texts, sources]`.
        known: whether texts of the same sources were trained on.
        encoder_logits: the same as `logits` of the sentence encoder's prior, where that is fitted.
    """

    clusters: Clusters
    data: Gathered
    owners: Tensor
    logits: Tensor
    known: bool
    encoder_logits: Tensor | None = None


def held_out_texts(data: Gathered, share: float) -> Tensor:
    """Bool `[texts]`: an even share of the texts of each source that has at least three; at least one."""
    chosen = torch.zeros(len(data.labels), dtype=torch.bool)
    for source in data.sources.unique():
        places = (data.sources == source).nonzero()[:, 0]
        count = max(1, int(len(places) * share))
        if len(places) > 2:
            chosen[places[torch.linspace(0, len(places) - 1, count).long()]] = True
    return chosen


def source_folds(data: Gathered, folds: int) -> Iterator[Tensor]:
    """Bool `[texts]` for each fold: the texts of the sources that it leaves out.

    The sources of every label are dealt out in turn; a label's only source is never left out.
    """
    fold = torch.full((int(data.sources.max()) + 1,), -1)
    for label in data.labels.unique():
        sources = data.sources[data.labels == label].unique()
        if len(sources) > 1:
            fold[sources] = torch.arange(len(sources)) % folds
    for i in range(folds):
        left_out = fold[data.sources] == i
        if left_out.any():
            yield left_out


@attrs.frozen(kw_only=True)
class PriorSettings:
    """Of `gem_scar.prior.SourceClassifier`: see there."""

    temperature: float
    slope: float
    offset: float


def calibrate_prior(trials: list[Trial]) -> PriorSettings:
    """Temperature, slope and offset that make the prior's shares true, by cross-entropy.

    The general path counts as right on what is unfamiliar, and where the likeliest expert is of no use.
    """
    weights = _level([torch.full((len(t.logits),), float(t.known)) for t in trials])
    parts = weights.split([len(trial.logits) for trial in trials])
    targets = [_targets(trial, trial.logits.softmax(-1) @ trial.owners) for trial in trials]
    log_temperature = torch.nn.Parameter(torch.tensor(0.0))
    slope, offset = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.Adam([log_temperature, slope, offset], lr=0.05)
    for _ in range(_ROUNDS):
        loss = torch.zeros(())
        for trial, target, weight in zip(trials, targets, parts, strict=True):
            found = _shares(trial, log_temperature.exp(), slope, offset)
            whole = torch.cat([found, 1 - found.sum(-1, keepdim=True)], 1)
            chosen = whole.gather(1, target[:, None])[:, 0]
            loss = loss - (chosen.clamp(min=1e-6).log() * weight).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return PriorSettings(
        temperature=float(log_temperature.detach().exp()),
        slope=float(slope.detach()),
        offset=float(offset.detach()),
    )


def prior_shares(trial: Trial, settings: PriorSettings) -> Tensor:
    """The prior of a trial's texts: float32 `[texts, experts]`."""
    values = (settings.temperature, settings.slope, settings.offset)
    return _shares(trial, *(torch.tensor(value) for value in values))


def _shares(trial: Trial, temperature: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    shares = torch.softmax(trial.logits / temperature, dim=-1)
    return (shares @ trial.owners) * torch.sigmoid(slope * certainty(shares) + offset)


def calibrate_clusters(
    trials: list[Trial], priors: list[Tensor], start: ScarSettings
) -> ScarSettings:
    """Temperature, radius and weight of the prior by cross-entropy, in the same way as the prior's."""
    distances, groups, targets, biases, known = [], [], [], [], []
    for trial, prior in zip(trials, priors, strict=True):
        found = trial.clusters.distances(trial.data.states)
        owners = trial.data.owners
        shares = torch.softmax(-found / start.temperature, -1) @ trial.clusters.values
        targets.append(_targets(trial, shares, owners))
        distances.append(found)
        groups.append(trial.clusters.values)
        biases.append(prior[owners])
        known.append(torch.full((len(owners),), float(trial.known)))
    weights = _level(known).split([len(k) for k in known])
    log_temperature = torch.nn.Parameter(torch.tensor(start.temperature).log())
    nearest = torch.cat([found.amin(-1) for found in distances])
    beyond = torch.nn.Parameter(nearest.median().log())
    strength = torch.nn.Parameter(torch.tensor(0.5))
    optimizer = torch.optim.Adam([log_temperature, beyond, strength], lr=0.05)
    for _ in range(_ROUNDS // 3):
        loss = torch.zeros(())
        for found, group, bias, target, weight in zip(
            distances, groups, biases, targets, weights, strict=True
        ):
            far = beyond.exp().expand(len(found), 1)
            wide = torch.cat([group, torch.zeros_like(group[:1])])
            shares_of = bias @ wide.T + (1 - bias.sum(-1, keepdim=True)) * (1 - wide.sum(-1))
            scores = -torch.cat([found, far], 1) / log_temperature.exp()
            scores = scores + strength * shares_of.clamp(min=1e-6).log()
            mass = torch.softmax(scores, -1)
            whole = torch.cat([wide, 1 - wide.sum(-1, keepdim=True)], 1)
            chosen = (mass @ whole).gather(1, target[:, None])[:, 0]
            loss = loss - (chosen.clamp(min=1e-9).log() * weight).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return attrs.evolve(
        start,
        temperature=float(log_temperature.detach().exp()),
        radius=float((2 * beyond.detach().exp()).sqrt()),
        prior_weight=max(0.0, float(strength.detach())),
    )


def choose_tau(
    trials: list[Trial], priors: list[Tensor], settings: ScarSettings, penalty: float
) -> tuple[ScarSettings, dict[str, float]]:
    """The gate with the greatest use, and whether the likeliest expert had better work in full.

    The use of a token's weights is what they save (see `saving`), a loss counting `penalty` times.

    Returns:
        The settings, and what `outcome` says of them.
    """
    best = (float("-inf"), settings, dict[str, float]())
    for hard in (False, True):
        for tau in TAUS:
            tried = attrs.evolve(settings, tau=tau, hard=hard)
            report = outcome(trials, priors, tried)
            use = sum(
                report[f"{kind}, saved"] - penalty * report[f"{kind}, lost"]
                for kind in ("known", "unfamiliar")
                if f"{kind}, saved" in report
            )
            if use > best[0]:
                best = (use, tried, report)
    return best[1], best[2]


def outcome(trials: list[Trial], priors: list[Tensor], settings: ScarSettings) -> dict[str, float]:
    """What weights do on known and on unfamiliar texts, means over tokens.

    Returns:
        For each of `known` and `unfamiliar`: weight of the text's own expert (`right`) and of others
        (`wrong`), what the weights save (`saved`) and what they lose (`lost`). On what is unfamiliar, all
        weights lose as much as the right ones save on what is known.
    """
    found: dict[str, list[Tensor]] = {}
    cost = _typical_saving(trials)
    for trial, prior in zip(trials, priors, strict=True):
        clusters = trial.clusters
        module = ClusterAttention(
            clusters.query, clusters.keys, clusters.values, settings, float_ops
        )
        owners = trial.data.owners
        with torch.no_grad():
            weights = module(trial.data.states, prior[owners])
        labels = trial.data.labels[owners]
        whole = torch.cat([weights, torch.zeros_like(weights[:, :1])], 1)
        right = whole.gather(1, labels[:, None])[:, 0]
        saved = saving(trial.data, weights) if trial.known else -cost * weights.sum(-1)
        kind = "known" if trial.known else "unfamiliar"
        for name, values in (
            ("right", right),
            ("wrong", weights.sum(-1) - right),
            ("saved", saved.clamp(min=0)),
            ("lost", (-saved).clamp(min=0)),
        ):
            found.setdefault(f"{kind}, {name}", []).append(values)
    return {name: float(torch.cat(parts).mean()) for name, parts in found.items()}


def saving(data: Gathered, weights: Tensor) -> Tensor:
    """What each token's weights `[points, experts]` save: `[points]`.

    In nats a token of the answer, where experts were measured on answers; else 1 for the text's own
    expert at full weight, and -1 for another.
    """
    if data.gains is not None:
        return (weights * data.gains[data.owners]).sum(-1)
    signs = torch.nn.functional.one_hot(data.labels, weights.shape[1] + 1)[:, :-1] * 2 - 1
    return (weights * signs[data.owners]).sum(-1)


def _typical_saving(trials: list[Trial]) -> float:
    """What its own expert saves on a known text, at full weight: the mean where it saves anything."""
    means = [_own_saving(trial.data) for trial in trials if trial.known]
    saved = torch.cat(means)
    return float(saved[saved > 0].mean()) if bool((saved > 0).any()) else 0.0


def _own_saving(data: Gathered) -> Tensor:
    labels = data.labels[data.owners]
    if data.gains is None:
        return torch.ones(len(labels))
    own = torch.cat([data.gains, torch.zeros_like(data.gains[:, :1])], 1)[data.owners]
    return own.gather(1, labels[:, None])[:, 0]


def _targets(trial: Trial, shares: Tensor, owners: Tensor | None = None) -> Tensor:
    """The likeliest expert where it is of use, else the number of experts: int64 `[n]`."""
    chosen = shares.argmax(-1)
    general = torch.full_like(chosen, shares.shape[1])
    if not trial.known:
        return general
    owners = torch.arange(len(chosen)) if owners is None else owners
    return torch.where(trial.data.useful(chosen, owners), chosen, general)


def _level(known: list[Tensor]) -> Tensor:
    """Weights with a sum of 1 that give known and unfamiliar parts the same say."""
    flags = torch.cat(known) > 0
    weights = torch.where(flags, 1 / flags.sum().clamp(min=1), 1 / (~flags).sum().clamp(min=1))
    return weights / weights.sum()
