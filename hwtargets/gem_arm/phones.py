"""What the phones are, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile, Sourced

_REVIEW = "https://www.anandtech.com/show/17032/tensor-soc-performance-efficiency"

PIXEL_6 = DeviceProfile(
    name="pixel6",
    device="Google Pixel 6 (Tensor): its two Cortex-X1",
    cores=2,
    clock_hz=Sourced(value=2.802e9, source=_REVIEW),
    memory_bytes=Sourced(
        value=8 * 2**30, source="https://support.google.com/pixelphone/answer/7158570"
    ),
    bandwidth=Sourced(
        value=51.2e9, source=f"{_REVIEW} (four 16-bit channels of LPDDR5 at 3200 MHz)"
    ),
    int8_rate=Sourced(
        value=2 * 4 * 16 * 2.802e9,
        source="Arm Cortex-X1 Software Optimization Guide (four SDOT of 16 products a cycle), two cores",
    ),
    fp16_rate=Sourced(
        value=2 * 4 * 8 * 2.802e9,
        source="Arm Cortex-X1 Software Optimization Guide (four FMLA of 8 products a cycle), two cores",
    ),
    fp32_rate=Sourced(
        value=2 * 4 * 4 * 2.802e9,
        source="Arm Cortex-X1 Software Optimization Guide (four FMLA of 4 products a cycle), two cores",
    ),
)
