"""What the boards are, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile, Sourced

_PI = "https://magpi.raspberrypi.com/articles/raspberry-pi-4-specs-benchmarks"
_A72 = (
    "computed from 4 cores x 1.5 GHz and Arm's Cortex-A72 Software Optimization Guide, UAN 0016A "
    "(https://developer.arm.com/documentation/uan0016/a/): "
)

RASPBERRY_PI_4 = DeviceProfile(
    name="rpi4",
    device="Raspberry Pi 4 Model B (BCM2711, Cortex-A72)",
    cores=4,
    clock_hz=Sourced(value=1.5e9, source=_PI),
    memory_bytes=Sourced(value=4 * 2**30, source=f"{_PI} (the largest of its first models)"),
    bandwidth=Sourced(
        value=5.56e9, source="https://www.sci-pi.org.uk/bench/stream.html (STREAM, measured)"
    ),
    # One pipe multiplies integers: eight int8 a cycle.
    int8_rate=Sourced(value=4 * 1.5e9 * 8, source=f"{_A72}one smlal of 8 int8 a cycle"),
    fp32_rate=Sourced(value=4 * 1.5e9 * 8, source=f"{_A72}two fmla of 4 float32 a cycle"),
)
"""The first model, of 2019; later ones run at 1.8 GHz."""
