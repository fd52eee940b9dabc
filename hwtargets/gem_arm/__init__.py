"""ARM processors as targets: boards with Linux, phones with Android."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import TargetRecord
from gemcore.schemes import SCHEMES


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the ARM targets."""
    yield TargetRecord(
        name="rpi4",
        summary="Raspberry Pi 4 with 64-bit Linux (Cortex-A72, no dot-product instructions)",
        loader="gem_arm.linux:raspberry_pi_4",
        reference_url="https://datasheets.raspberrypi.com/rpi4/raspberry-pi-4-product-brief.pdf",
        capabilities=frozenset(
            {"execute", "rpc", "routed_lora", "vocabulary-bands", "cache-f16", "cache-q8", *SCHEMES}
        ),
    )
    yield TargetRecord(
        name="pixel6",
        summary="Google Pixel 6 (Android, ARM with dot products): a library with a C header",
        loader="gem_arm.android:pixel_6",
        reference_url="https://developer.android.com/ndk/guides/abis#arm64-v8a",
        capabilities=frozenset(
            {"execute", "routed_lora", "vocabulary-bands", "cache-f16", "cache-q8", *SCHEMES}
        ),
    )
