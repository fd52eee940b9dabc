"""Apple's phones as targets."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import TargetRecord
from gemcore.schemes import SCHEMES


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the target `iphone13`."""
    yield TargetRecord(
        name="iphone13",
        summary="iPhone 13 (A15, iOS 15 and newer): an .xcframework with a C header",
        loader="gem_apple.phone:iphone_13",
        reference_url="https://developer.apple.com/documentation/xcode/creating-a-multi-platform-binary-framework-bundle",
        capabilities=frozenset(
            {"execute", "routed_lora", "vocabulary-bands", "cache-f16", "cache-q8", *SCHEMES}
        ),
    )
