"""What the phone is, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile, Sourced

_REVIEW = "https://www.anandtech.com/show/16983/the-apple-a15-soc-performance-review-faster-more-efficient"

IPHONE_13 = DeviceProfile(
    name="iphone13",
    device="Apple iPhone 13 (A15): its two fast cores",
    cores=2,
    clock_hz=Sourced(value=3.24e9, source=_REVIEW),
    memory_bytes=Sourced(
        value=4 * 2**30, source="https://www.macrumors.com/2021/09/15/how-much-ram-in-iphone-13/"
    ),
    bandwidth=Sourced(value=34.1e9, source=f"{_REVIEW} (64 bits of LPDDR4X-4266)"),
    int8_rate=Sourced(
        value=2 * 4 * 16 * 3.24e9,
        source=f"{_REVIEW} (four 128-bit units a core, each one SDOT of 16 products), two cores",
    ),
    fp16_rate=Sourced(
        value=2 * 4 * 8 * 3.24e9,
        source=f"{_REVIEW} (four 128-bit units a core, each one FMLA of 8 products), two cores",
    ),
    fp32_rate=Sourced(
        value=2 * 4 * 4 * 3.24e9,
        source=f"{_REVIEW} (four 128-bit units a core, each one FMLA of 4 products), two cores",
    ),
)
