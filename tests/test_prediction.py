"""Predictions, against sums made by hand."""

from __future__ import annotations

import attrs
import pytest

from gemcore.errors import BundleError
from gemcore.prediction import HostCheck, as_measured, predict
from gemcore.reports import DelegatedOperation, DelegationReport, DeviceProfile, Sourced


def sourced(value):
    return Sourced(value=value, source="made up")


PROFILE = DeviceProfile(
    name="board",
    cores=1,
    bandwidth=sourced(100.0),
    int8_rate=sourced(1000.0),
    fp32_rate=sourced(10.0),
)
DELEGATION = DelegationReport(
    target="host",
    unit="host",
    execution="native",
    operations=(
        DelegatedOperation(
            operation="qlinear", unit="host", count=1, multiply_accumulates=400, memory_bytes=200
        ),
        DelegatedOperation(
            operation="attention", unit="host", count=1, multiply_accumulates=64, memory_bytes=256
        ),
    ),
).to_json()


def test_a_token_takes_the_longer_of_memory_and_arithmetic():
    found = predict(PROFILE, DELEGATION, 128)
    # qlinear: 200 / 100 = 2 s of memory; attention at 128 of 256 positions: 32 / 10 = 3.2 s.
    assert found.tokens_per_second == pytest.approx(1 / 5.2)
    assert found.decode_limit == "arithmetic"
    # A prompt of 128 in one pass: qlinear 128 * 400 / 1000; attention at 64 positions on average.
    assert found.ttft == pytest.approx(51.2 + 128 * 16 / 10)
    assert found.prefill_limit == "arithmetic"
    assert found.to_json()["execution"] == "predicted"


def test_a_long_prompt_reads_its_weights_once_a_pass():
    fast = DeviceProfile(
        name="board", cores=1, bandwidth=sourced(100.0), int8_rate=sourced(1e9),
        fp16_rate=sourced(1e9),
    )  # fmt: skip
    assert predict(fast, DELEGATION, 129).ttft == pytest.approx(2 * 2 + 2 * 2.56 * 129 / 512)
    assert predict(fast, DELEGATION, 129).prefill_limit == "memory"


def test_what_products_of_int8_do_in_float32_is_counted():
    profile = attrs.evolve(PROFILE, bandwidth=sourced(1e9))
    operation = DelegatedOperation(
        operation="qlinear", unit="host", count=1, multiply_accumulates=400, memory_bytes=200,
        float_operations=30,
    )  # fmt: skip
    delegation = {**DELEGATION, "operations": [attrs.asdict(operation)]}
    # 400 / 1000 s of products and 30 / 10 s of what follows them.
    assert predict(profile, delegation, 1).tokens_per_second == pytest.approx(1 / 3.4)
    assert predict(profile, delegation, 8).ttft == pytest.approx(8 * 3.4)


def test_what_no_source_is_known_for_is_said():
    found = predict(DeviceProfile(name="board", cores=1), DELEGATION, 8)
    assert (found.ttft, found.missing) == (None, "no source is known for its memory bandwidth")
    found = predict(DeviceProfile(name="board", cores=1, bandwidth=sourced(1)), DELEGATION, 8)
    assert found.missing == "no source is known for its int8 rate"


@pytest.mark.parametrize("damage", [{}, {**DELEGATION, "operations": []}])
def test_a_report_without_bytes_is_refused(damage):
    with pytest.raises(BundleError, match="compile again"):
        predict(PROFILE, damage, 8)


def test_a_check_tells_how_far_a_prediction_is_off():
    check = HostCheck(
        device="board",
        threads=1,
        bandwidth=50.0,
        clock_hz=3e9,
        predicted_ttft=1.0,
        measured_ttft=2.0,
        predicted_speed=30.0,
        measured_speed=20.0,
    )
    assert (check.ttft_error, check.speed_error) == (-0.5, 0.5)
    assert check.to_json()["ttft_error"] == -0.5
    assert check.to_json()["clock_hz"] == 3e9
    assert as_measured(PROFILE, check).bandwidth == Sourced(value=50.0, source="measured")
    # Without a clock it is not known what the rates are at another one.
    assert as_measured(PROFILE, check).int8_rate == sourced(1000.0)
    clocked = as_measured(attrs.evolve(PROFILE, clock_hz=sourced(2e9)), check)
    assert clocked.clock_hz == Sourced(value=3e9, source="measured")
    assert (clocked.int8_rate, clocked.fp32_rate) == (sourced(1500.0), sourced(15.0))
    assert clocked.fp16_rate is None
    other = DeviceProfile(name="other", cores=1)
    assert as_measured(other, check) is other
