"""The Pareto front: the least expected KL divergence at every size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from gem_hybrid.assignment import least_error
from gem_hybrid.sensitivity import UnitChoices
from gemcore.schemes import get_scheme

POINTS = 25


@attrs.frozen(kw_only=True)
class Point:
    """One plan.

    Attributes:
        bytes: of all packed weights.
        kl: in nats a token, expected or measured.
        name: what to call it; empty for points of the front.
    """

    bytes: int
    kl: float
    name: str = ""


def front(table: Sequence[UnitChoices], points: int = POINTS) -> list[Point]:
    """Best plans at sizes at even distances, from the smallest to the largest group-wise one.

    Each size is solved exactly; sizes that give the same plan give one point.
    """
    choices = [unit.choices for unit in table]
    grouped = [[c for c in unit if get_scheme(c.scheme).grouped] or unit for unit in choices]
    low = sum(min(c.bytes for c in unit) for unit in choices)
    high = max(low, sum(max(c.bytes for c in unit) for unit in grouped))
    found: dict[int, Point] = {}
    for i in range(points):
        picked = least_error(choices, low + (high - low) * i // max(1, points - 1))
        assert picked is not None
        plan = [unit[k] for unit, k in zip(choices, picked, strict=True)]
        size = sum(c.bytes for c in plan)
        found[size] = Point(bytes=size, kl=math.fsum(c.error for c in plan))
    return [found[size] for size in sorted(found)]


def uniform(table: Sequence[UnitChoices]) -> list[Point]:
    """One point for each group-wise scheme that all weights may have."""
    names = dict.fromkeys(c.scheme for unit in table for c in unit.choices)
    points = []
    for name in names:
        chosen = [c for unit in table for c in unit.choices if c.scheme == name]
        if len(chosen) == len(table) and get_scheme(name).grouped:
            kl = math.fsum(c.error for c in chosen)
            points.append(Point(bytes=sum(c.bytes for c in chosen), kl=kl, name=name))
    return sorted(points, key=lambda point: point.bytes)
