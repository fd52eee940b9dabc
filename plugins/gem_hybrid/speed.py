"""How long a token is expected to take on a device: what `latency=…` limits.

A token reads every weight once, so its time is that of the bytes, or of the multiply-accumulates where
those take longer (the roofline model of Williams, Waterman and Patterson, 2009). Norms, attention and the
calls themselves come on top and do not depend on the plan.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from gem_hybrid.limits import read_bytes
from gem_hybrid.sensitivity import KV_CACHE, UnitChoices
from gemcore.errors import UsageError
from gemcore.models.config import ModelConfig
from gemcore.models.layout import EMBEDDING, vocabulary_weight, weight_units
from gemcore.schemes import TILE, get_scheme


@attrs.frozen(kw_only=True)
class Speed:
    """What a device does in a second at best.

    Attributes:
        bandwidth: bytes from main memory.
        int8_rate, fp16_rate: multiply-accumulates; None where they are not known.
    """

    bandwidth: float
    int8_rate: float | None = None
    fp16_rate: float | None = None


def device_speed(device: str | None, bandwidth: str | None) -> Speed:
    """The speed of a target by its name, with another bandwidth where one is given.

    Raises:
        UsageError: neither is given, there is no such target, or it does not know its bandwidth.
    """
    if device is None and bandwidth is None:
        raise UsageError(
            "quantizer 'hybrid': latency needs a device: add device=TARGET, or the bytes a second that "
            "its memory gives: bandwidth=12GB"
        )
    given = None if bandwidth is None else float(read_bytes(bandwidth, "bandwidth"))
    if given == 0:
        raise UsageError("quantizer 'hybrid': bandwidth is 0: no token would ever come")
    if device is None:
        assert given is not None
        return Speed(bandwidth=given)
    from gemcore.plugins import get_host

    host = get_host()
    profile = host.create(host.select("target", device)).profile()
    if given is None and profile.bandwidth is None:
        raise UsageError(
            f"target '{device}' does not know the bandwidth of its memory: add bandwidth=12GB, as many "
            "bytes a second as it gives"
        )
    if given is None:
        assert profile.bandwidth is not None
        given = profile.bandwidth.value
    return Speed(
        bandwidth=given,
        int8_rate=None if profile.int8_rate is None else profile.int8_rate.value,
        fp16_rate=None if profile.fp16_rate is None else profile.fp16_rate.value,
    )


def with_seconds(
    table: Iterable[UnitChoices], config: ModelConfig, speed: Speed
) -> tuple[UnitChoices, ...]:
    """The table with the time of each choice."""
    shapes = {unit.name: unit.shape for unit in weight_units(config)}
    timed = []
    for unit in table:
        choices = []
        for choice in unit.choices:
            if unit.unit == KV_CACHE:
                seconds = choice.bytes / speed.bandwidth
            elif vocabulary_weight(unit.unit) == EMBEDDING and not config.tied_head:
                # One tile of rows; the rest is never read.
                seconds = choice.bytes * TILE / shapes[unit.unit][0] / speed.bandwidth
            else:
                grouped = get_scheme(choice.scheme).grouped
                rate = speed.int8_rate if grouped else speed.fp16_rate
                work = 0.0 if rate is None else unit.weights / rate
                seconds = max(choice.bytes / speed.bandwidth, work)
            choices.append(attrs.evolve(choice, seconds=seconds))
        timed.append(attrs.evolve(unit, choices=tuple(choices)))
    return tuple(timed)
