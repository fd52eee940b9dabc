"""Thresholds: how sure a router must be, told from texts that it has not seen.

What is unfamiliar takes the general path. What is unfamiliar cannot be told from examples of it, for those
would be familiar: thresholds are those that a given share of held-out familiar texts passes (inductive
conformal prediction; Papadopoulos and others, ECML 2002).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from gem_scar.attention import LEAST_SHARE, SMALLEST, ClusterAttention, ScarSettings
from gem_scar.gather import Gathered
from gem_scar.prior import SLOPE, certainty
from gem_scar.train import Clusters, train_prior
from gemcore.models import float_ops

TAUS = tuple(i / 20 for i in range(1, 21))
_ROUNDS = 200


@attrs.frozen(kw_only=True, eq=False)
class Trial:
    """What a router, fitted on some texts, makes of others of the same sources.

    Attributes:
        clusters: the trained cluster attention.
        data: texts that it was not trained on.
        owners: float32 `[sources, experts]`: whose texts those of a source are.
        logits: of the prior for those texts, float32 `[texts, sources]`.
        thresholds: of certainty, float32 `[sources]`.
    """

    clusters: Clusters
    data: Gathered
    owners: Tensor
    logits: Tensor
    thresholds: Tensor


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


def unseen_logits(points: Tensor, sources: Tensor, count: int, decay: float, folds: int) -> Tensor:
    """What a prior says of texts that it was not fitted on (cross-validation): `[texts, count]`."""
    found = torch.zeros(len(points), count)
    fold = torch.arange(len(points)) % folds
    for i in range(folds):
        weight, bias = train_prior(points[fold != i], sources[fold != i], count, decay)
        found[fold == i] = points[fold == i] @ weight.T + bias
    return found


def certainty_thresholds(logits: Tensor, sources: Tensor, familiar: float) -> Tensor:
    """For each source the certainty that a share `familiar` of its texts reaches: `[sources]`.

    The conformal prediction is Mondrian (Vovk and others, 2003): each kind has its own threshold, because
    what is certain for one is not for another.
    """
    sure = certainty(logits.softmax(-1))[:, 0]
    return torch.stack(
        [
            (sure[sources == source] if (sources == source).any() else sure).quantile(1 - familiar)
            for source in range(logits.shape[1])
        ]
    )


def likeliest_temperature(logits: Tensor, sources: Tensor) -> float:
    """That which makes the shares of the sources true (arXiv 1706.04599)."""
    log_temperature = torch.nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.LBFGS([log_temperature], line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / log_temperature.exp(), sources)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_temperature.detach().exp())


def passes(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Whether a prior is certain enough of texts with logits `[texts, sources]`: bool `[texts]`."""
    shares = logits.softmax(-1)
    return certainty(shares)[:, 0] >= shares @ thresholds


def prior_shares(trial: Trial, temperature: float) -> Tensor:
    """The prior of a trial's texts: float32 `[texts, experts]`."""
    shares = trial.logits.softmax(-1)
    gate = torch.sigmoid(SLOPE * (certainty(shares) - (shares @ trial.thresholds)[:, None]))
    return torch.softmax(trial.logits / temperature, dim=-1) @ trial.owners * gate


def calibrate_clusters(
    trial: Trial, prior: Tensor, start: ScarSettings, familiar: float
) -> ScarSettings:
    """Radius by the share of tokens within it; temperature and weight of the prior by cross-entropy.

    The general path counts as right where the likeliest expert is of no use. Texts that the prior gives to
    the general path do not count, for no token of theirs is asked.
    """
    found, group = trial.clusters.distances(trial.data.states), trial.clusters.values
    owners = trial.data.owners
    likeliest = (torch.softmax(-found / start.temperature, -1) @ group).argmax(-1)
    target = torch.where(trial.data.useful(likeliest, owners), likeliest, group.shape[1])
    beyond = found.amin(-1).quantile(familiar)
    scores = -torch.cat([found, beyond.expand(len(found), 1)], 1)
    wide = torch.cat([group, torch.zeros_like(group[:1])])
    whole = torch.cat([wide, 1 - wide.sum(-1, keepdim=True)], 1)
    opinion = torch.cat([prior, 1 - prior.sum(-1, keepdim=True)], 1)[owners] @ whole.T
    bias = opinion.clamp(min=SMALLEST).log()
    asked = (prior.sum(-1) >= LEAST_SHARE).float()[owners]
    log_temperature = torch.nn.Parameter(torch.tensor(start.temperature).log())
    strength = torch.nn.Parameter(torch.tensor(0.5))
    optimizer = torch.optim.Adam([log_temperature, strength], lr=0.05)
    for _ in range(_ROUNDS):
        mass = torch.softmax(scores / log_temperature.exp() + strength * bias, -1)
        chosen = (mass @ whole).gather(1, target[:, None])[:, 0]
        loss = -(chosen.clamp(min=1e-9).log() * asked).sum() / asked.sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return attrs.evolve(
        start,
        temperature=float(log_temperature.detach().exp()),
        radius=float((2 * beyond).sqrt()),
        prior_weight=max(0.0, float(strength.detach())),
    )


def choose_tau(
    trial: Trial, prior: Tensor, settings: ScarSettings, penalty: float
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
            report = outcome(trial, prior, tried)
            use = report["saved"] - penalty * report["lost"]
            if use > best[0]:
                best = (use, tried, report)
    return best[1], best[2]


def outcome(trial: Trial, prior: Tensor, settings: ScarSettings) -> dict[str, float]:
    """What weights do, means over tokens.

    Returns:
        Weight of the text's own expert (`right`) and of others (`wrong`), what the weights save (`saved`)
        and what they lose (`lost`).
    """
    clusters, owners = trial.clusters, trial.data.owners
    module = ClusterAttention(clusters.query, clusters.keys, clusters.values, settings, float_ops)
    with torch.no_grad():
        weights = module(trial.data.states, prior[owners])
    labels = trial.data.labels[owners]
    whole = torch.cat([weights, torch.zeros_like(weights[:, :1])], 1)
    right = whole.gather(1, labels[:, None])[:, 0]
    saved = saving(trial.data, weights)
    return {
        "right": float(right.mean()),
        "wrong": float((weights.sum(-1) - right).mean()),
        "saved": float(saved.clamp(min=0).mean()),
        "lost": float((-saved).clamp(min=0).mean()),
    }


def saving(data: Gathered, weights: Tensor) -> Tensor:
    """What each token's weights `[points, experts]` save: `[points]`.

    In nats a token of the answer, where experts were measured on answers; else 1 for the text's own
    expert at full weight, and -1 for another.
    """
    if data.gains is not None:
        return (weights * data.gains[data.owners]).sum(-1)
    signs = torch.nn.functional.one_hot(data.labels, weights.shape[1] + 1)[:, :-1] * 2 - 1
    return (weights * signs[data.owners]).sum(-1)
