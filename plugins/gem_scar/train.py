"""Training of cluster keys and of the early prior, on gathered states."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from gem_scar.clusters import centroids
from gem_scar.fit_options import FitOptions
from gem_scar.gather import Gathered

NEVER = -1e9
"""A logit that no softmax gives a share."""


@attrs.frozen(kw_only=True, eq=False)
class Clusters:
    """Trained cluster attention.

    Attributes:
        query: float32 `[width, hidden]`.
        keys: float32 `[clusters, width]`.
        values: float32 `[clusters, experts]`.
        temperature: that the keys were trained at.
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    temperature: float

    def distances(self, states: Tensor) -> Tensor:
        """Half the squared distance of each state's query to each key: `[points, clusters]`."""
        return torch.cdist(states @ self.query.T, self.keys).square() / 2


def start_of_query(data: Gathered, width: int) -> Tensor:
    """A projection to begin with: linear discriminants of the sources (Fisher, 1936).

    The covariance within sources is whitened, so that distances count what tells sources apart.
    """
    states, sources = data.states.double(), data.sources[data.owners]
    count = int(data.sources.max()) + 1
    sizes = torch.bincount(sources, minlength=count).clamp(min=1).double()
    sums = torch.zeros(count, states.shape[1], dtype=torch.float64).index_add_(0, sources, states)
    means = sums / sizes[:, None]
    rest = states - means[sources]
    within = rest.T @ rest / len(rest)
    within += torch.eye(len(within)) * within.diagonal().mean() * 0.1
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors * values.rsqrt() @ vectors.T
    present = torch.bincount(sources, minlength=count) > 0
    centred = (means[present] - means[present].mean(0)) @ whiten
    # All directions of the whitened space, those between sources first.
    order = torch.linalg.svd(centred + 0, full_matrices=True).Vh
    return (order[:width] @ whiten).float()


def train_clusters(
    data: Gathered, experts: int, options: FitOptions, step: Callable[[int, int], None]
) -> Clusters:
    """Learn query and keys: k-means in the projected space, then cross-entropy on the experts' mass.

    A second term is the language-model loss: to first order, an expert at weight w lowers the loss of a
    text's answers by w times what it does when it always works. A third keeps the mean use of each
    expert's clusters level, for one that is never near anything learns nothing.
    """
    targets = data.labels[data.owners]
    query = start_of_query(data, options.width)
    points = data.states @ query.T
    keys, owners = [], []
    for label in range(experts + 1):
        members = points[targets == label]
        if len(members):
            count = options.clusters if label < experts else options.general_clusters
            keys.append(centroids(members, count, options.seed + label))
            owners += [label] * count
    # One column more than experts, for the general path.
    groups = torch.nn.functional.one_hot(torch.tensor(owners), experts + 1).float()
    trained = [
        torch.nn.Parameter(query),
        torch.nn.Parameter(torch.cat(keys)),
        torch.nn.Parameter(torch.tensor(1.5)),
    ]
    optimizer = torch.optim.Adam(trained, lr=options.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.rate, total_steps=options.steps
    )
    weights = _class_weights(targets, experts + 1)
    generator = torch.Generator().manual_seed(options.seed)
    for i in range(options.steps):
        chosen = torch.multinomial(weights[targets], options.batch, True, generator=generator)
        projected = data.states[chosen] @ trained[0].T
        distances = torch.cdist(projected, trained[1]).square() / 2
        mass = torch.softmax(-distances / trained[2].exp(), dim=-1)
        shares = (mass @ groups).clamp(min=1e-9)
        loss = torch.nn.functional.nll_loss(shares.log(), targets[chosen])
        if data.gains is not None:
            saved = (shares[:, :experts] * data.gains[data.owners[chosen]]).sum(-1).mean()
            loss = loss - options.language_model * saved
        loss = loss + options.balance * _imbalance(mass, groups)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        step(i + 1, options.steps)
    with torch.no_grad():
        return Clusters(
            query=trained[0].detach(),
            keys=trained[1].detach(),
            values=groups[:, :experts].contiguous(),
            temperature=float(trained[2].exp()),
        )


def _class_weights(targets: Tensor, classes: int) -> Tensor:
    """Every class is drawn equally often."""
    return 1 / torch.bincount(targets, minlength=classes).clamp(min=1).double()


def _imbalance(mass: Tensor, groups: Tensor) -> Tensor:
    """Mean over classes of KL(level use ‖ use) of its clusters."""
    use = mass.mean(0)
    share = use / (use @ groups @ groups.T).clamp(min=1e-9)
    level = 1 / (groups @ groups.sum(0))
    terms = level * (level.log() - share.clamp(min=1e-9).log())
    return terms.sum() / groups.shape[1]


def train_prior(points: Tensor, sources: Tensor, count: int, decay: float) -> tuple[Tensor, Tensor]:
    """Logistic regression of features `[texts, width]` to their sources, for `SourceClassifier`.

    Args:
        points: float32 `[texts, width]`.
        sources: int64 `[texts]`.
        count: how many sources there are; those without texts are never likely.
        decay: L2 penalty.

    Returns:
        Weight `[count, width]` and bias `[count]`, for features as they are.
    """
    weight, bias = logistic_regression(points, sources, count, decay)
    present = torch.bincount(sources, minlength=count) > 0
    return weight, torch.where(present, bias, NEVER)


def train_head(data: Gathered, classes: int, options: FitOptions) -> tuple[Tensor, Tensor]:
    """The same of the states of single tokens: weight `[classes, hidden]` and bias `[classes]`."""
    return logistic_regression(data.states, data.labels[data.owners], classes, options.decay)


def logistic_regression(
    points: Tensor, labels: Tensor, classes: int, decay: float
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression in which all classes have the same say, by L-BFGS.

    Args:
        points: float32 `[points, width]`; their scale does not matter.
        labels: int64 `[points]`.
        classes: how many; those without points get logits of 0.
        decay: L2 penalty of the weight of standardised points.

    Returns:
        Weight `[classes, width]` and bias `[classes]` for the points as they are.
    """
    mean, deviation = points.mean(0), points.std(0).clamp(min=1e-6)
    points = (points - mean) / deviation
    present = torch.bincount(labels, minlength=classes) > 0
    weight = torch.nn.Parameter(torch.zeros(classes, points.shape[1]))
    bias = torch.nn.Parameter(torch.zeros(classes))
    level = _class_weights(labels, classes).float()
    absent = torch.where(present, 0.0, float("-inf"))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=300, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = points @ weight.T + bias + absent
        loss = torch.nn.functional.cross_entropy(logits, labels, weight=level)
        loss = loss + decay * weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    scaled = weight.detach() / deviation
    return scaled, bias.detach() - scaled @ mean
