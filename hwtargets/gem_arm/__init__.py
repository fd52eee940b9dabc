"""ARM processors as targets: boards with Linux."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import TargetRecord

SCHEMES = (
    "f16",
    "q2a-g64",
    "q3a-g32",
    "q3a-g64",
    "q3s-g32",
    "q4a-g32",
    "q4a-g64",
    "q4s-g32",
    "q5a-g32",
    "q5a-g64",
    "q5s-g32",
    "q6-g32",
    "q8-g32",
)
"""Ways to store weights that the kernels read."""


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the ARM targets."""
    yield TargetRecord(
        name="rpi4",
        summary="Raspberry Pi 4 with 64-bit Linux (Cortex-A72, no dot-product instructions)",
        loader="gem_arm.linux:raspberry_pi_4",
        reference_url="https://datasheets.raspberrypi.com/rpi4/raspberry-pi-4-product-brief.pdf",
        capabilities=frozenset(
            {"execute", "rpc", "routed_lora", "cache-f16", "cache-q8", *SCHEMES}
        ),
    )
