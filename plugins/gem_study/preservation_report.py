"""The table of forgetting in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from gem_study.preservation import KINDS, PreservationStudy, Preserved
from gem_study.report import Report, Table, Words, part_words, share_words
from gem_tradeoff.analysis import Undefined
from gem_tradeoff.words import name_words

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "full": "full fine-tuning",
        "preserved": "with preservation",
        "single": "expert, always on",
        "routed": "experts, routed",
    }
)

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "Forgetting": "The mean relative loss, in bits per byte, on the other domains' held-out text and "
        "on general text; gains count as 0. Noise alone makes it a little more than 0.",
        "Gain": "The relative gain on the own domain's held-out text: above 0 is better.",
        "Forgetting cut": "The share of plain full fine-tuning's forgetting that is avoided.",
        "Gain kept": "The share of plain full fine-tuning's gain that is still there.",
    }
)


def preservation_report(study: PreservationStudy) -> Report:
    """The study as people read it."""
    tables = []
    if len(study.domains) > 1:
        tables.append(_table(f"Mean over {len(study.domains)} domains", study.mean))
    tables += [_table(name_words(name), found) for name, found in study.domains.items()]
    tables.append(
        Table(
            title="Gain on every text, in %",
            heads=("model", *(name_words(column) for column in study.columns)),
            rows=tuple(
                (
                    f"{name_words(name)}, {TITLES[kind]}",
                    tuple(share_words(one.gains[column]) for column in study.columns),
                )
                for name, found in study.domains.items()
                for kind, one in found.items()
            ),
            long=True,
        )
    )
    return Report(
        title=f"What specialising {study.model} forgets",
        lead=f"Bits per byte of held-out text against the base; 95 % intervals of {study.resamples} "
        "paired resamples of the items",
        tables=tuple(tables),
        meanings=MEANINGS,
    )


def _table(title: str, found: Mapping[str, Preserved]) -> Table:
    rows: list[tuple[str, tuple[Words, ...]]] = []
    for kind in KINDS:
        if kind in found:
            one = found[kind]
            rows.append(
                (
                    TITLES[kind],
                    (
                        part_words(one.forgetting, 2),
                        share_words(one.gain),
                        part_words(one.cut),
                        part_words(one.kept),
                    ),
                )
            )
    return Table(
        title=title,
        heads=("model", "forgetting", "gain", "forgetting cut", "gain kept"),
        rows=tuple(rows),
        notes=tuple(_reasons(found.values())),
    )


def _reasons(found: Iterable[Preserved]) -> list[str]:
    cells = (cell for one in found for cell in (one.cut, one.kept))
    return [*dict.fromkeys(f"undefined: {c.reason}" for c in cells if isinstance(c, Undefined))]
