"""Experts of random deltas for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gemcore.experts.card import DataSource, ExpertCard
from gemcore.experts.expert_set import ExpertSet, read_set
from gemcore.experts.files import Expert, write_expert
from gemcore.experts.fingerprint import base_fingerprint
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import EMBEDDING, HEAD, weight_units


def tiny_expert(
    name: str,
    checkpoint: Checkpoint,
    *,
    rank: int = 4,
    units: Iterable[str] | None = None,
    scale: float = 0.1,
    **changes: Any,
) -> Expert:
    """An expert of random deltas for a model, not written anywhere.

    Args:
        name: the same name gives the same deltas.
        checkpoint: the base model.
        rank: of every delta.
        units: the weight units that carry one; all of them but embedding and head if not given.
        scale: of the values: standard deviation of `up` times the root of the width of `down`.
        changes: other values for fields of the card.
    """
    shapes = {unit.name: unit.shape for unit in weight_units(checkpoint.config)}
    chosen = [*shapes] if units is None else [*units]
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.default_rng(seed)
    tensors = {}
    carriers = [unit for unit in chosen if unit not in (EMBEDDING, HEAD)]
    for unit in carriers:
        rows, columns = shapes[unit]
        down = generator.standard_normal((columns, rank)) / columns**0.5
        up = generator.standard_normal((rank, rows)) * scale
        tensors[f"{unit}.down"] = down.astype(np.float16)
        tensors[f"{unit}.up"] = up.astype(np.float16)
    fields: dict[str, Any] = {
        "name": name,
        "domain": name,
        "summary": f"random deltas called {name}",
        "base": base_fingerprint(checkpoint),
        "base_name": checkpoint.name,
        "rank": rank,
        "units": carriers,
        "licence": "Apache-2.0",
        "data": (DataSource(name="noise", licence="CC0-1.0", items=3, bytes=300),),
        "command": f"gem experts train --domain {name}",
        "steps": 10,
        "scores": {"main": {"name": "bits per byte", "base": 1.25, "expert": 1.0}},
    }
    return Expert(card=ExpertCard(**(fields | changes)), tensors=tensors)


def write_tiny_set(
    folder: Path,
    checkpoint: Checkpoint,
    names: Sequence[str] = ("code", "law", "medicine"),
    **settings: Any,
) -> ExpertSet:
    """Write a set of random experts to `folder`, and open it; `settings` are those of `tiny_expert`."""
    for name in names:
        expert = tiny_expert(name, checkpoint, **settings)
        write_expert(folder / name, expert.card, expert.tensors)
    return read_set(folder)
