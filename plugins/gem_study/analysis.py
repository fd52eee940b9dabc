"""From the result files of several precisions to what compression did to each domain."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from gem_study.measures import (
    brittleness,
    mean_loss,
    noise,
    rank_correlation,
    spread,
    worst_loss,
)
from gem_study.records import (
    CORRELATED,
    Measured,
    Precision,
    PrecisionScores,
    Study,
    VariantStudy,
)
from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import RESAMPLES, Estimate, Floats, estimate
from gem_tradeoff.measures import LEAST_DENOMINATOR, gains
from gem_tradeoff.scores import VARIANTS, DomainScores, Variant, domain_scores
from gemcore.errors import UsageError, unknown_name

LEAST_DOMAINS = 2
LEAST_PRECISIONS = 3
"""Of those that are compressed: with fewer, ranks say nothing."""


def study_compression(
    measured: Sequence[Measured],
    *,
    variants: Iterable[str] = ("task", "answer", "text"),
    domains: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Study:
    """Set every precision against the first one, domain by domain.

    Intervals are paired: all precisions share each resample of the items. The rank correlation is
    over the compressed precisions, without the reference, whose loss is 0 by definition; its interval
    is over the items, and says nothing of precisions that were not measured.

    Args:
        measured: the reference first, at least two in all.
        variants: names of `gem_tradeoff.scores.VARIANTS`.
        domains: only these; None for all.
        leave_out: tasks that are not counted; those that some file lacks are left out by themselves.

    Raises:
        UsageError: too few precisions, two of one name, files that do not belong together, or nothing
            to look at.
        FormatError: a file's items cannot be scored.
        GemError: a score cannot be set against chance.
    """
    _check(measured)
    lacking = _lacking(measured)
    excluded = {*leave_out, *lacking}
    missing = [
        f"task '{name}' is left out: {', '.join(labels)} has no result of it"
        for name, labels in lacking.items()
    ]
    precisions = _precisions(measured)
    found = []
    for name in dict.fromkeys(variants):
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
        variant = VARIANTS[name]
        if not _has(measured[0], variant, domains, excluded):
            missing.append(f"{measured[0].results.name} has no {variant.lacking}")
            continue
        scores = domain_scores(
            [one.results for one in measured],
            variant,
            domains=domains,
            leave_out=excluded,
            resamples=resamples,
            seed=seed,
        )
        found.append(_variant_study(scores, precisions))
    if not found:
        raise UsageError("; ".join(missing))
    return Study(
        model=measured[0].results.model,
        precisions=precisions,
        variants=tuple(found),
        missing=tuple(missing),
        resamples=resamples,
        seed=seed,
    )


def _check(measured: Sequence[Measured]) -> None:
    if len(measured) < 2:
        raise UsageError(
            f"the study sets precisions against the first one, so it needs at least 2, and there "
            f"is {len(measured)}"
        )
    labels = [one.label for one in measured]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"precision '{label}' is there twice: name each one once")
    models = {one.results.model for one in measured}
    if len(models) > 1:
        raise UsageError(
            f"the results are of different models, {' and '.join(sorted(models))}: a study of "
            "compression is of one model"
        )


def _lacking(measured: Sequence[Measured]) -> dict[str, list[str]]:
    """Tasks that are not in every file, and the precisions that lack them."""
    every = dict.fromkeys(name for one in measured for name in one.results.tasks)
    lacking = {
        name: [one.label for one in measured if name not in one.results.tasks] for name in every
    }
    return {name: labels for name, labels in lacking.items() if labels}


def _has(
    one: Measured, variant: Variant, domains: Collection[str] | None, excluded: Collection[str]
) -> bool:
    return any(
        variant.takes(task)
        and task.name not in excluded
        and (domains is None or task.domain in domains)
        for task in one.results.tasks.values()
    )


def _precisions(measured: Sequence[Measured]) -> tuple[Precision, ...]:
    whole = measured[0].size.bytes
    return tuple(
        Precision(
            label=one.label,
            size=one.size,
            compression=whole / one.size.bytes if whole and one.size.bytes else None,
            file=one.results.name,
        )
        for one in measured
    )


def _variant_study(scores: DomainScores, precisions: Sequence[Precision]) -> VariantStudy:
    reference = scores.values[:, 0]
    left_out = _indivisible(scores, precisions[0].label)
    used = [place for place, name in enumerate(scores.domains) if name not in left_out]
    # At most 2.5 % of the resamples are below this, for their interval was checked: see _indivisible.
    divisible = np.maximum(reference, LEAST_DENOMINATOR)
    lower = scores.variant.lower_is_better
    gain = [
        gains(divisible, scores.values[:, row], lower_is_better=lower)
        for row in range(1, len(precisions))
    ]
    parts = [
        _precision_scores(scores, row, precision.label, gain[row - 1], left_out)
        for row, precision in enumerate(precisions[1:], start=1)
    ]
    return VariantStudy(
        variant=scores.variant,
        domains=scores.domains,
        tasks=scores.tasks,
        reference=_estimates(scores.domains, reference),
        left_out=left_out,
        precisions=tuple(parts),
        correlations=_correlations([rows[:, used] for rows in gain], precisions),
    )


def _precision_scores(
    scores: DomainScores, row: int, label: str, gain: Floats, left_out: Mapping[str, str]
) -> PrecisionScores:
    domains, values = scores.domains, scores.values
    used = [place for place, name in enumerate(domains) if name not in left_out]
    kept = gain[:, used]
    uneven = _too_few(len(used))
    none = Undefined("no domain is left")
    worst = used[int(kept[0].argmin())] if used else None
    return PrecisionScores(
        label=label,
        scores=_estimates(domains, values[:, row]),
        differences=_estimates(domains, values[:, row] - values[:, 0]),
        gains={
            name: Undefined(left_out[name]) if name in left_out else estimate(gain[:, place])
            for place, name in enumerate(domains)
        },
        mean=none if worst is None else estimate(-mean_loss(kept)),
        spread=None if uneven else float(spread(kept[:1])[0]),
        noise=None if uneven else noise(kept),
        brittleness=uneven or estimate(brittleness(kept)),
        worst_domain="" if worst is None else domains[worst],
        worst=none if worst is None else estimate(gain[:, worst]),
    )


def _too_few(domains: int) -> Undefined | None:
    if domains >= LEAST_DOMAINS:
        return None
    return Undefined(f"a spread over domains needs at least {LEAST_DOMAINS}, and {domains} is left")


def _correlations(kept: Sequence[Floats], precisions: Sequence[Precision]) -> dict[str, Cell]:
    """Of compression with each measure.

    Args:
        kept: for each compressed precision its gains `[1 + resamples, domains]`.
        precisions: the reference first.
    """
    measures = {"brittleness": brittleness, "worst_loss": worst_loss, "mean_loss": mean_loss}
    compression = [precision.compression for precision in precisions[1:]]
    obstacle = _obstacle(compression, precisions) or _too_few(kept[0].shape[-1])
    if obstacle:
        return dict.fromkeys(CORRELATED, obstacle)
    ratios = np.array(compression, dtype=np.float64)
    found: dict[str, Cell] = {}
    for name in CORRELATED:
        rows = rank_correlation(ratios, np.stack([measures[name](g) for g in kept], axis=-1))
        if np.isnan(rows[0]) or np.isnan(rows[1:]).all():
            found[name] = Undefined(
                "all precisions measure the same, so their ranks correlate with nothing"
            )
        else:
            found[name] = estimate(rows)
    return found


def _obstacle(
    compression: Sequence[float | None], precisions: Sequence[Precision]
) -> Undefined | None:
    """Why compression cannot be correlated with anything."""
    if len(compression) < LEAST_PRECISIONS:
        return Undefined(
            f"a rank correlation needs at least {LEAST_PRECISIONS} precisions beside the reference, "
            f"and there are {len(compression)}"
        )
    unknown = [one.file for one in precisions if one.size.bytes is None]
    if unknown:
        return Undefined(
            f"{', '.join(unknown)} does not say how many bytes the model has: give them with --bytes"
        )
    if len(set(compression)) == 1:
        return Undefined("all precisions have the same number of bytes")
    return None


def _indivisible(scores: DomainScores, label: str) -> dict[str, str]:
    """The domains in which the reference's score, or its interval, is too near zero to divide by.

    Where the interval reaches zero, a quotient's own interval has no end (Fieller, Some problems in
    interval estimation, 1954).
    """
    return {
        domain: (
            f"{scores.variant.unit} on {domain} of {label} is {score.value:.3f} ({score.low:.3f} to "
            f"{score.high:.3f}), too near zero to divide by (the interval must lie above "
            f"{LEAST_DENOMINATOR:g}): score more items"
        )
        for domain, score in _estimates(scores.domains, scores.values[:, 0]).items()
        if min(score.value, score.low) < LEAST_DENOMINATOR
    }


def _estimates(domains: Sequence[str], values: Floats) -> dict[str, Estimate]:
    return {name: estimate(values[:, place]) for place, name in enumerate(domains)}
