"""The time of a token on a device, as what is limited."""

import sys
from types import SimpleNamespace

import pytest

from gem_hybrid.assignment import Choice
from gem_hybrid.sensitivity import UnitChoices
from gem_hybrid.speed import Speed, device_speed, with_seconds
from gemcore.errors import UsageError
from gemcore.hookspecs import hookimpl
from gemcore.models.layout import weight_units
from gemcore.records import TargetRecord
from gemcore.reports import DeviceProfile, Sourced
from gemcore.testing import tiny_config


@pytest.fixture
def boards(host, monkeypatch):
    """Two targets: one knows its bandwidth and one does not."""

    def board(bandwidth):
        known = None if bandwidth is None else Sourced(value=bandwidth, source="data sheet")
        rate = Sourced(value=1e9, source="data sheet")
        profile = DeviceProfile(name="board", cores=4, bandwidth=known, int8_rate=rate)
        methods = dict.fromkeys(("describe", "readiness", "build", "open", "export"), dict)
        return lambda: SimpleNamespace(profile=lambda: profile, **methods)

    module = SimpleNamespace(quick=board(2e9), unknown=board(None))
    monkeypatch.setitem(sys.modules, "boards_of_these_tests", module)

    @hookimpl
    def gem_targets():
        for name in ("quick", "unknown"):
            yield TargetRecord(name=name, summary="a board", loader=f"boards_of_these_tests:{name}")

    host.add(SimpleNamespace(gem_targets=gem_targets), name="boards")


def test_a_device_has_a_speed(boards):
    assert device_speed("quick", None) == Speed(bandwidth=2e9, int8_rate=1e9)
    assert device_speed("unknown", "3GB") == Speed(bandwidth=3e9, int8_rate=1e9)
    assert device_speed(None, "3GB") == Speed(bandwidth=3e9)


def test_what_is_not_known_is_asked_for(boards):
    with pytest.raises(UsageError, match="target 'unknown' does not know the bandwidth"):
        device_speed("unknown", None)
    with pytest.raises(UsageError, match="latency needs a device: add device=TARGET"):
        device_speed(None, None)
    with pytest.raises(UsageError, match="unknown target 'rpi9'"):
        device_speed("rpi9", None)
    with pytest.raises(UsageError, match="bandwidth 'fast' is no size"):
        device_speed(None, "fast")
    with pytest.raises(UsageError, match="bandwidth is 0"):
        device_speed(None, "0")


def test_times_are_of_bytes_or_of_work():
    config = tiny_config(tied_head=False)
    units = {unit.name: unit for unit in weight_units(config)}
    rows = units["embedding"].shape[0]

    def timed(name, scheme, size, speed):
        weights = 0 if name == "kv_cache" else units[name].parameters
        one = UnitChoices(
            unit=name, weights=weights, choices=(Choice(scheme=scheme, bytes=size, error=0.1),)
        )
        ((found,),) = [unit.choices for unit in with_seconds([one], config, speed)]
        return found.seconds

    slow = Speed(bandwidth=100.0)
    assert timed("layers.0.attention.qkv", "q8-g32", 500, slow) == 5.0
    assert timed("kv_cache", "q8", 500, slow) == 5.0
    # One tile of rows of an embedding that is not the head.
    assert timed("embedding", "q8-g32", 500, slow) == pytest.approx(5.0 * 16 / rows)
    busy = Speed(bandwidth=1e9, int8_rate=10.0, fp16_rate=5.0)
    work = units["head"].parameters
    assert timed("head", "q8-g32", 500, busy) == work / 10
    assert timed("head", "f16", 500, busy) == work / 5


def test_a_latency_is_kept(tiny, make, boards):
    sizes = []
    for latency in ("60us", "90us"):
        plan = make(latency=latency, bandwidth="1GB").plan(tiny)
        size = sum(entry.bytes for entry in plan.entries)
        assert size / 1e9 <= float(latency[:-2]) * 1e-6
        sizes.append(size)
    assert sizes[0] < sizes[1]
    with pytest.raises(UsageError, match=r"latency=1us cannot be reached: .* expected to take"):
        make(latency="1us", bandwidth="1GB").plan(tiny)
    with pytest.raises(UsageError, match="latency '5' is no time"):
        make(latency="5", bandwidth="1GB")
    with pytest.raises(UsageError, match="device and bandwidth are for a latency"):
        make(bits=5, device="quick")
    with pytest.raises(UsageError, match="give a budget or latency=1ms, not both"):
        make(latency="1ms", device="quick").plan(tiny, budget=10**6)
