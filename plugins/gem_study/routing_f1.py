"""How often the prior of a request names the right domain: macro-F1, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import Floats, estimate, item_weights
from gem_tradeoff.results import Task
from gemcore.errors import FormatError


def domain_f1(tasks: Sequence[Task], experts: Mapping[str, str], resamples: int, seed: int) -> Cell:
    """Macro-F1 over domains of the expert that the prior gives the largest share.

    The domain of a benchmark is the right answer for each of its items. How much the prior leaves to the
    general path does not count here: what that saves and costs is in bits per byte. Domains without an
    expert, and items of which nothing was asked, are left out.

    Args:
        tasks: whose items record a `prior`.
        experts: by name the domain of each.
    """
    labels = tuple(dict.fromkeys(experts.values()))
    asked = [task for task in tasks if task.domain in labels]
    if not any("prior" in sample for task in asked for sample in task.samples):
        return Undefined("this router gives requests no prior")
    domains = tuple(label for label in labels if any(task.domain == label for task in asked))
    counts = np.zeros((1 + resamples, len(labels), len(labels) + 1))
    for task in asked:
        chosen = np.zeros((len(task.samples), len(labels) + 1))
        for row, sample in zip(chosen, task.samples, strict=True):
            if "prior" in sample:
                said = likeliest(task, sample, experts)
                row[len(labels) if said is None else labels.index(said)] = 1
        weights = item_weights(task.name, len(chosen), resamples, seed)
        counts[:, labels.index(task.domain)] += weights @ chosen
    return estimate(
        macro_f1(counts[:, [labels.index(domain) for domain in domains]], domains, labels)
    )


def macro_f1(counts: Floats, domains: Sequence[str], labels: Sequence[str]) -> Floats:
    """The mean over domains of `2 TP / (2 TP + FP + FN)`.

    Args:
        counts: `[rows, domains, labels + 1]`: items of a domain for which a label, or none, was said.
        domains: names of the second axis, all among the labels.
        labels: names of the third axis; after them comes none.

    Returns:
        `[rows]`.
    """
    columns = [labels.index(domain) for domain in domains]
    right = counts[:, np.arange(len(domains)), columns]
    there = counts.sum(axis=2)
    said = counts.sum(axis=1)[:, columns]
    below = there + said
    scores = np.divide(2 * right, below, out=np.zeros_like(right), where=below > 0)
    return np.asarray(scores.mean(axis=1))


def likeliest(task: Task, sample: Mapping[str, Any], experts: Mapping[str, str]) -> str | None:
    """The domain of the expert with the largest share of an item's prior; None where none has any.

    Raises:
        FormatError: the item's prior is none.
    """
    prior = sample["prior"]
    if not isinstance(prior, dict) or not all(
        name in experts and isinstance(share, int | float) for name, share in prior.items()
    ):
        raise FormatError(
            f"{task.where}, item {sample['doc_id']!r}: 'prior' is {prior!r:.60}, not shares of the "
            f"experts {', '.join(experts)}"
        )
    if not prior:
        return None
    return experts[max(prior, key=lambda one: float(prior[one]))]
