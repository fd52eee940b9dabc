"""What specialising for a domain costs elsewhere, by the way it is done: forgetting and gain.

Everything is in bits per byte of held-out text: the corpora of all domains, and general text. The
formulas are those of `gem_tradeoff.measures`: `G(a→b) = (B_b(base) - B_b(model)) / B_b(base)`, and
`F(a) = mean over b≠a of max(0, -G(a→b))`, here over the other domains' corpora and the general text.
Every model shares each resample of the items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from gem_study.routing_records import cell_json
from gem_tradeoff.analysis import Cell, Undefined
from gem_tradeoff.bootstrap import RESAMPLES, Estimate, Floats, estimate, estimate_of_losses
from gem_tradeoff.measures import forgetting, gains
from gem_tradeoff.results import CORPUS, ResultFile, bits_score
from gem_tradeoff.scores import match, resampled_scores
from gemcore.errors import UsageError, unknown_name

VERSION = 1
"""Of the definitions: numbers of different versions must not be compared."""

GENERAL = "general"
"""The column of general text."""

KINDS = ("full", "preserved", "single", "routed")
"""Full fine-tuning, the same with preservation, one expert that is always on, routed experts."""

LEAST_SHARE = 0.001
"""Nothing is divided by a forgetting or a gain below this share of the base's bits."""


@attrs.frozen(kw_only=True, eq=False)
class Specialised:
    """A model that was specialised, and measured.

    Attributes:
        kind: one of `KINDS`.
        domain: what for.
        results: of the suite.
        base: of the model that it was made from, run in the same way.
    """

    kind: str
    domain: str
    results: ResultFile = attrs.field(repr=False)
    base: ResultFile = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Preserved:
    """What one way to specialise does, for one domain or on the mean over domains.

    Attributes:
        forgetting: mean relative loss elsewhere; 0 is none.
        gain: on the own domain's held-out text, as a share of the base's bits; above 0 is better.
        cut: share of plain full fine-tuning's forgetting that is avoided.
        kept: share of plain full fine-tuning's gain that is kept.
        gains: on every text, by column.
    """

    forgetting: Estimate
    gain: Estimate
    cut: Cell
    kept: Cell
    gains: Mapping[str, Estimate] = attrs.Factory(dict)


@attrs.frozen(kw_only=True)
class PreservationStudy:
    """The table of forgetting.

    Attributes:
        columns: the texts: domains, and `GENERAL`.
        domains: by domain and kind.
        mean: over the domains, by kind; only kinds that every domain has.
    """

    model: str
    columns: tuple[str, ...]
    domains: Mapping[str, Mapping[str, Preserved]]
    mean: Mapping[str, Preserved]
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Everything as values of JSON; what is undefined is an object with its reason."""
        return {
            "version": VERSION,
            "model": self.model,
            "unit": "bits per byte of held-out text",
            "columns": list(self.columns),
            "domains": {
                domain: {kind: _json(one) for kind, one in found.items()}
                for domain, found in self.domains.items()
            },
            "mean": {kind: _json(one) for kind, one in self.mean.items()},
            "resamples": self.resamples,
            "seed": self.seed,
        }


def study_preservation(
    models: Sequence[Specialised],
    *,
    general: str = "wikitext2",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PreservationStudy:
    """Set every specialised model against its base, and every way against plain full fine-tuning.

    Args:
        models: of each domain at most one of a kind; a routed model once for each domain.
        general: the task of general text.

    Raises:
        UsageError: files that do not belong together, an unknown domain, or no text to compare.
        FormatError: a file's items cannot be scored.
    """
    if not models:
        raise UsageError("there is no specialised model to look at")
    columns = _columns(models[0].base, general)
    for one in models:
        if one.domain not in columns or one.domain == GENERAL:
            raise unknown_name("domain", one.domain, set(columns) - {GENERAL})
    names = list(dict.fromkeys(one.domain for one in models))
    gain: dict[str, dict[str, Floats]] = {name: {} for name in names}
    for one in models:
        gain[one.domain][one.kind] = _gain(one, columns, resamples, seed)
    place = {name: list(columns).index(name) for name in names}
    losses = {
        name: {kind: forgetting(rows, place[name]) for kind, rows in found.items()}
        for name, found in gain.items()
    }
    own = {
        name: {kind: rows[:, place[name]] for kind, rows in found.items()}
        for name, found in gain.items()
    }
    domains = {
        name: {
            kind: Preserved(
                forgetting=estimate_of_losses(
                    losses[name][kind], np.delete(gain[name][kind], place[name], axis=-1)
                ),
                gain=estimate(own[name][kind]),
                cut=_cut(losses[name], kind),
                kept=_kept(own[name], kind),
                gains={c: estimate(gain[name][kind][:, i]) for i, c in enumerate(columns)},
            )
            for kind in KINDS
            if kind in gain[name]
        }
        for name in names
    }
    return PreservationStudy(
        model=models[0].base.model,
        columns=tuple(columns),
        domains=domains,
        mean=_mean(losses, own, names),
        resamples=resamples,
        seed=seed,
    )


def _mean(
    losses: Mapping[str, Mapping[str, Floats]],
    own: Mapping[str, Mapping[str, Floats]],
    names: Sequence[str],
) -> dict[str, Preserved]:
    """Means over domains, of the kinds that every domain has."""
    kinds = [kind for kind in KINDS if all(kind in losses[name] for name in names)]
    loss = {kind: np.asarray(np.mean([losses[n][kind] for n in names], axis=0)) for kind in kinds}
    gain = {kind: np.asarray(np.mean([own[n][kind] for n in names], axis=0)) for kind in kinds}
    return {
        kind: Preserved(
            forgetting=estimate(loss[kind]),
            gain=estimate(gain[kind]),
            cut=_cut(loss, kind),
            kept=_kept(gain, kind),
        )
        for kind in kinds
    }


def _columns(base: ResultFile, general: str) -> dict[str, str]:
    """The texts, each with its task: held-out corpora by domain, then general text."""
    columns = {t.domain: name for name, t in base.tasks.items() if t.task_type == CORPUS}
    if general not in base.tasks:
        raise unknown_name("task", general, base.tasks)
    if len(columns) < 2:
        raise UsageError(
            f"{base.name} has the held-out text of {len(columns)} domains: forgetting needs at least 2"
        )
    return columns | {GENERAL: general}


def _gain(one: Specialised, columns: Mapping[str, str], resamples: int, seed: int) -> Floats:
    """Relative gains `[1 + resamples, columns]`."""
    base, special = match([one.base, one.results])
    rows = [
        resampled_scores([base[name], special[name]], bits_score, resamples, seed)
        for name in columns.values()
    ]
    values = np.stack(rows, axis=-1)
    return gains(values[:, 0], values[:, 1], lower_is_better=True)


def _cut(losses: Mapping[str, Floats], kind: str) -> Cell:
    """`1 - F / F(full)`."""
    divisor = _divisor(losses, "forgets")
    return divisor if isinstance(divisor, Undefined) else estimate(1 - losses[kind] / divisor)


def _kept(gain: Mapping[str, Floats], kind: str) -> Cell:
    """`G / G(full)`."""
    divisor = _divisor(gain, "gains")
    return divisor if isinstance(divisor, Undefined) else estimate(gain[kind] / divisor)


def _divisor(rows: Mapping[str, Floats], word: str) -> Floats | Undefined:
    if "full" not in rows:
        return Undefined("plain full fine-tuning was not measured")
    found = estimate(rows["full"])
    if min(found.value, found.low) < LEAST_SHARE:
        return Undefined(
            f"full fine-tuning {word} {100 * found.value:.2f} % ({100 * found.low:.2f} to "
            f"{100 * found.high:.2f}), too little to divide by (the interval must lie above "
            f"{100 * LEAST_SHARE:g} %): score more text"
        )
    return np.maximum(rows["full"], LEAST_SHARE)


def _json(one: Preserved) -> dict[str, Any]:
    return {
        "forgetting": attrs.asdict(one.forgetting),
        "gain": attrs.asdict(one.gain),
        "forgetting_cut": cell_json(one.cut),
        "gain_kept": cell_json(one.kept),
        "gains": {name: attrs.asdict(cell) for name, cell in one.gains.items()},
    }
