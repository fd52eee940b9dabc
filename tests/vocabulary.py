"""Plans that store embedding and head of the tiny model in bands of rows."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from gemcore.models.config import ModelConfig
from gemcore.models.layout import vocabulary_weight, weight_units
from gemcore.reports import Plan, PlanEntry

BANDS = (32, 96)


def plan_of(config: ModelConfig, vocabulary: Sequence[str], bands: tuple[int, ...] = BANDS) -> Plan:
    """A plan in which embedding and head have a scheme for each band, or one for all."""
    config = attrs.evolve(config, vocabulary_bands=bands)
    entries = []
    for unit in weight_units(config):
        whole = vocabulary_weight(unit.name)
        place = int(unit.name.partition(".")[2] or 0) if whole else 0
        scheme = vocabulary[place] if whole else "q4a-g32"
        entries.append(PlanEntry(unit=unit.name, scheme=scheme, reason="test", bytes=0))
    return Plan(quantizer="test", entries=tuple(entries), vocabulary_bands=bands)
