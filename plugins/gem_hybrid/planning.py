"""From the table of choices and a limit to a plan, with a reason for each weight.

The KV cache may be one of the table's entries: its bytes and its KL count like those of a weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gem_hybrid.assignment import Choice, least_bytes, least_error, least_error_in_time
from gem_hybrid.limits import Limit
from gem_hybrid.sensitivity import KV_CACHE, UnitChoices
from gemcore.errors import UsageError
from gemcore.reports import Plan, PlanEntry
from gemcore.schemes import SCHEMES, get_scheme


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
            bits = 8 * least / max(1, sum(unit.weights for unit in table))
            raise UsageError(
                f"quantizer 'hybrid': {limit.words} allows {limit.bytes} bytes, but the smallest "
                f"precisions take {least} ({bits:.3f} bits a weight): allow more, or more schemes"
            )
    elif limit.seconds is not None:
        found = least_error_in_time(choices, limit.seconds)
        if found is None:
            fastest = math.fsum(min(c.seconds for c in unit) for unit in choices)
            raise UsageError(
                f"quantizer 'hybrid': {limit.words} cannot be reached: with the smallest precisions a "
                f"token is expected to take {1000 * fastest:.3g}ms: allow more, or more schemes"
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
    entries, skipped = {}, []
    for unit, choice in zip(table, choose(table, limit), strict=True):
        entries[unit.unit] = PlanEntry(
            unit=unit.unit,
            scheme=choice.scheme,
            reason=_reason(unit, choice),
            bytes=choice.bytes,
            expected_error=choice.error,
        )
        skipped += _skipped(unit)
    cache = entries.pop(KV_CACHE, None)
    return Plan(
        quantizer=words, entries=tuple(entries.values()), skipped=tuple(skipped), kv_cache=cache
    )


def _skipped(unit: UnitChoices) -> list[tuple[str, str]]:
    """A weight that fits none of the group-wise schemes that were allowed."""
    wanted = [name for name, _ in unit.obstacles if name in SCHEMES and get_scheme(name).grouped]
    if not wanted or any(get_scheme(choice.scheme).grouped for choice in unit.choices):
        return []
    # The scheme with the smallest groups came closest to fitting.
    nearest = min(wanted, key=lambda name: get_scheme(name).group)
    return [(unit.unit, f"not {nearest}: {dict(unit.obstacles)[nearest]}")]


def _reason(unit: UnitChoices, chosen: Choice) -> str:
    if len(unit.choices) == 1:
        return dict(unit.obstacles).get(_first_obstacle(unit), "the only one allowed")
    if chosen.error == 0:
        return "costs nothing" if unit.unit == KV_CACHE else "holds the file's codes exactly"
    smaller = [c for c in unit.choices if c.bytes < chosen.bytes]
    if not smaller:
        return "the smallest costs little enough here"
    below = max(smaller, key=lambda choice: (choice.bytes, -choice.error))
    return f"{below.scheme} is expected to cost {below.error - chosen.error:.2g} nats more"


def _first_obstacle(unit: UnitChoices) -> str:
    return unit.obstacles[0][0] if unit.obstacles else ""
