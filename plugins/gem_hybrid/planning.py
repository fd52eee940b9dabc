"""From the table of choices and a limit to a plan, with a reason for each weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gem_hybrid.assignment import Choice, least_bytes, least_error
from gem_hybrid.limits import Limit
from gem_hybrid.sensitivity import UnitChoices
from gemcore.errors import UsageError
from gemcore.packing import get_scheme
from gemcore.reports import Plan, PlanEntry


def choose(table: Sequence[UnitChoices], limit: Limit) -> list[Choice]:
    """The best choice for every weight within the limit.

    Raises:
        UsageError: the limit cannot be kept; the sentence says what can.
    """
    choices = [unit.choices for unit in table]
    if limit.bytes is not None:
        found = least_error(choices, limit.bytes)
        if found is None:
            least = sum(min(c.bytes for c in unit) for unit in choices)
            bits = 8 * least / sum(unit.weights for unit in table)
            raise UsageError(
                f"quantizer 'hybrid': {limit.words} allows {limit.bytes} bytes, but the smallest "
                f"precisions take {least} ({bits:.3f} bits a weight): allow more, or more schemes"
            )
    else:
        assert limit.kl is not None
        found = least_bytes(choices, limit.kl)
        if found is None:
            least_kl = math.fsum(min(c.error for c in unit) for unit in choices)
            raise UsageError(
                f"quantizer 'hybrid': {limit.words} cannot be reached: the best precisions are "
                f"expected to have a KL of {least_kl:.3g} nats: allow more, or more schemes"
            )
    return [unit[i] for unit, i in zip(choices, found, strict=True)]


def make_plan(table: Sequence[UnitChoices], limit: Limit, words: str) -> Plan:
    """The best plan within the limit; `words` are the quantizer's own, as the user could type them.

    Raises:
        UsageError: the limit cannot be kept.
    """
    entries, skipped = [], []
    for unit, choice in zip(table, choose(table, limit), strict=True):
        entries.append(
            PlanEntry(
                unit=unit.unit,
                scheme=choice.scheme,
                reason=_reason(unit, choice),
                bytes=choice.bytes,
                expected_error=choice.error,
            )
        )
        skipped += _skipped(unit)
    return Plan(quantizer=words, entries=tuple(entries), skipped=tuple(skipped))


def _skipped(unit: UnitChoices) -> list[tuple[str, str]]:
    """A weight that fits none of the group-wise schemes that were allowed."""
    wanted = [name for name, _ in unit.obstacles if get_scheme(name).grouped]
    possible = any(get_scheme(choice.scheme).grouped for choice in unit.choices)
    if not wanted or possible:
        return []
    return [(unit.unit, f"not {wanted[0]}: {dict(unit.obstacles)[wanted[0]]}")]


def _reason(unit: UnitChoices, chosen: Choice) -> str:
    if len(unit.choices) == 1:
        return dict(unit.obstacles).get(_first_obstacle(unit), "the only one allowed")
    if chosen.error == 0:
        return "holds the file's codes exactly"
    smaller = [c for c in unit.choices if c.bytes < chosen.bytes]
    if not smaller:
        return "the smallest costs little enough here"
    below = max(smaller, key=lambda choice: (choice.bytes, -choice.error))
    return f"{below.scheme} is expected to cost {below.error - chosen.error:.2g} nats more"


def _first_obstacle(unit: UnitChoices) -> str:
    return unit.obstacles[0][0] if unit.obstacles else ""
