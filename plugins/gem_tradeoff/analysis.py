"""The whole trade-off of several specialised models against their base, with intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from gem_tradeoff.bootstrap import (
    RESAMPLES,
    Estimate,
    Floats,
    estimate,
    estimate_of_losses,
)
from gem_tradeoff.measures import (
    LEAST_DENOMINATOR,
    forgetting,
    gains,
    generalization_gap,
    specialization_index,
    transfer_ratio,
)
from gem_tradeoff.results import ResultFile
from gem_tradeoff.scores import VARIANTS, DomainScores, Variant, domain_scores
from gemcore.errors import UsageError, unknown_name

MEASURES = ("dsi", "gg", "cdtr", "forgetting")
VERSION = 1
"""Of the definitions: numbers of different versions must not be compared."""


@attrs.frozen
class Undefined:
    """A number that cannot be had, and why, as a sentence."""

    reason: str


Cell = Estimate | Undefined


@attrs.frozen(kw_only=True)
class ModelTradeoff:
    """What specialising did to one model.

    Attributes:
        label: a name that no other model of the report has.
        domain: what it is specialised for.
        scores: of every domain.
        gains: relative to the base's score, of every domain.
        measures: by the names of `MEASURES`.
    """

    label: str
    domain: str
    scores: Mapping[str, Estimate]
    gains: Mapping[str, Cell]
    measures: Mapping[str, Cell]


@attrs.frozen(kw_only=True)
class VariantTradeoff:
    """The trade-off in one variant: scores of tasks, or bits per byte."""

    variant: Variant
    domains: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]]
    base: Mapping[str, Estimate]
    models: tuple[ModelTradeoff, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why numbers are undefined, each reason once."""
        cells = (
            cell
            for model in self.models
            for cell in (*model.gains.values(), *model.measures.values())
        )
        return tuple(dict.fromkeys(c.reason for c in cells if isinstance(c, Undefined)))


@attrs.frozen(kw_only=True)
class Tradeoff:
    """The trade-off in all variants that the files allow; `missing` says why others are not there."""

    base: str
    files: tuple[str, ...]
    variants: tuple[VariantTradeoff, ...]
    missing: tuple[str, ...]
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Everything as values of JSON; what is undefined is an object with its reason."""
        return {
            "version": VERSION,
            "base": self.base,
            "files": list(self.files),
            "resamples": self.resamples,
            "seed": self.seed,
            "variants": {part.variant.name: _variant_json(part) for part in self.variants},
            "missing": list(self.missing),
        }


def analyse(
    base: ResultFile,
    specialised: Sequence[tuple[ResultFile, str | None]],
    *,
    variants: Iterable[str] = ("task", "text"),
    domains: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Tradeoff:
    """Compute gains and measures of every specialised model, in every variant.

    Args:
        base: the results of the base model.
        specialised: results of each specialised model, and its domain; None for the file's own word.
        variants: names of `scores.VARIANTS`.
        domains: only these; None for all.
        leave_out: tasks that are not counted.

    Raises:
        UsageError: the files do not belong together, a domain is unknown or not given, or none of
            the variants can be had.
        FormatError: a file's items cannot be scored.
    """
    files = [base, *(file for file, _ in specialised)]
    own = [own_domain(file, domain, base.domains) for file, domain in specialised]
    found, missing = [], []
    for name in variants:
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
        variant = VARIANTS[name]
        if not _has(base, variant, domains, leave_out):
            missing.append(f"{base.name} has no {variant.lacking}")
            continue
        scores = domain_scores(
            files, variant, domains=domains, leave_out=leave_out, resamples=resamples, seed=seed
        )
        _check_domains(scores, own, files[1:])
        found.append(_tradeoff(scores, own, _labels(files[1:], own), base.name))
    if not found:
        raise UsageError("; ".join(missing))
    return Tradeoff(
        base=base.model,
        files=tuple(file.name for file in files),
        variants=tuple(found),
        missing=tuple(missing),
        resamples=resamples,
        seed=seed,
    )


def own_domain(file: ResultFile, given: str | None, domains: Collection[str]) -> str:
    """The domain that a model is specialised for: the given one, or the one that its file names."""
    domain = given or file.specialised_for
    if domain is None:
        raise UsageError(
            f"{file.name} does not say for which domain its model is specialised: write "
            f"DOMAIN={file.name}, or give --domain; the domains are {', '.join(domains)}"
        )
    if domain not in domains:
        raise unknown_name("domain", domain, domains)
    return domain


def _has(
    base: ResultFile, variant: Variant, domains: Collection[str] | None, leave_out: Collection[str]
) -> bool:
    return any(
        variant.takes(task)
        and task.name not in leave_out
        and (domains is None or task.domain in domains)
        for task in base.tasks.values()
    )


def _check_domains(scores: DomainScores, own: Sequence[str], files: Sequence[ResultFile]) -> None:
    if len(scores.domains) < 2:
        raise UsageError(
            f"the trade-off needs at least 2 domains, and there is only '{scores.domains[0]}' with "
            f"{scores.variant.lacking}"
        )
    for domain, file in zip(own, files, strict=True):
        if domain not in scores.domains:
            raise UsageError(
                f"{file.name} is for '{domain}', but of that domain there is no "
                f"{scores.variant.lacking}; the domains with it are {', '.join(scores.domains)}"
            )


def _labels(files: Sequence[ResultFile], own: Sequence[str]) -> list[str]:
    """The domain, with the model's and at last the file's name where it would not be unique."""
    choices = (
        list(own),
        [f"{domain} ({file.model})" for domain, file in zip(own, files, strict=True)],
        [f"{domain} ({file.name})" for domain, file in zip(own, files, strict=True)],
    )
    for labels in choices:
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label}, no. {number}" for number, label in enumerate(choices[-1], start=1)]


def _tradeoff(
    scores: DomainScores, own: Sequence[str], labels: Sequence[str], base: str
) -> VariantTradeoff:
    models = [
        _model(scores, 1 + row, label, domain, base)
        for row, (label, domain) in enumerate(zip(labels, own, strict=True))
    ]
    return VariantTradeoff(
        variant=scores.variant,
        domains=scores.domains,
        tasks=scores.tasks,
        base=_estimates(scores.domains, scores.values[:, 0]),
        models=tuple(models),
    )


def _model(
    scores: DomainScores, row: int, label: str, domain: str, base_name: str
) -> ModelTradeoff:
    domains, lower = scores.domains, scores.variant.lower_is_better
    base, special = scores.values[:, 0], scores.values[:, row]
    problems = _problems(scores, 0, base_name)
    # Of bits per byte, the transfer ratio divides by the specialised model's.
    ratio_problems = _problems(scores, row, label) if lower else problems
    # At most 2.5 % of the resamples are below this, for their interval was checked: see _problems.
    divisible, special_divisible = (np.maximum(v, LEAST_DENOMINATOR) for v in (base, special))
    own = domains.index(domain)
    elsewhere = [name for name in domains if name != domain]
    gain = gains(divisible, special, lower_is_better=lower)

    if lower:
        ratio = transfer_ratio(base, special_divisible, own, lower_is_better=True)
    else:
        ratio = transfer_ratio(divisible, special, own)
    losses = estimate_of_losses(forgetting(gain, own), np.delete(gain, own, axis=-1))
    return ModelTradeoff(
        label=label,
        domain=domain,
        scores=_estimates(domains, special),
        gains={
            name: _unless(problems, [name], estimate(gain[:, column]))
            for column, name in enumerate(domains)
        },
        measures={
            "dsi": _unless(problems, domains, estimate(specialization_index(gain, own))),
            "gg": estimate(generalization_gap(base, special, own, lower_is_better=lower)),
            "cdtr": _unless(ratio_problems, elsewhere, estimate(ratio)),
            "forgetting": _unless(problems, elsewhere, losses),
        },
    )


def _unless(problems: Mapping[str, str], needed: Sequence[str], value: Estimate) -> Cell:
    """The value, or why it means nothing: it needs a domain that has a problem."""
    for name in needed:
        if name in problems:
            return Undefined(problems[name])
    return value


def _problems(scores: DomainScores, row: int, name: str) -> dict[str, str]:
    """The domains in which a model's score cannot be divided by, with the reason as a sentence.

    The interval counts too: where it reaches zero, a quotient's own interval has no end (Fieller,
    Some problems in interval estimation, 1954).
    """
    found = {}
    for domain, score in _estimates(scores.domains, scores.values[:, row]).items():
        if min(score.value, score.low) < LEAST_DENOMINATOR:
            found[domain] = (
                f"{scores.variant.unit} on {domain} of {name} is {score.value:.3f} "
                f"({score.low:.3f} to {score.high:.3f}), too near zero to divide by (the interval "
                f"must lie above {LEAST_DENOMINATOR:g}): score more items, or leave the domain out"
            )
    return found


def _estimates(domains: Sequence[str], values: Floats) -> dict[str, Estimate]:
    return {name: estimate(values[:, column]) for column, name in enumerate(domains)}


def _variant_json(part: VariantTradeoff) -> dict[str, Any]:
    return {
        "unit": part.variant.unit,
        "lower_is_better": part.variant.lower_is_better,
        "domains": list(part.domains),
        "tasks": {domain: list(tasks) for domain, tasks in part.tasks.items()},
        "base": _cells_json(part.base),
        "models": [
            {
                "label": model.label,
                "specialised_for": model.domain,
                "scores": _cells_json(model.scores),
                "gains": _cells_json(model.gains),
                "measures": _cells_json(model.measures),
            }
            for model in part.models
        ],
    }


def _cells_json(cells: Mapping[str, Cell]) -> dict[str, Any]:
    return {
        name: {"undefined": cell.reason} if isinstance(cell, Undefined) else attrs.asdict(cell)
        for name, cell in cells.items()
    }
