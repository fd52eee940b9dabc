"""Arm's Ethos-U85 as a target, which is compiled for and not run."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import TargetRecord

SCHEMES = (
    "f16",
    "q4a-g32",
    "q4a-g64",
    "q4s-g32",
    "q5a-g32",
    "q5a-g64",
    "q5s-g32",
    "q6-g32",
    "q8-g32",
)
"""Ways to store weights that are read; all are rounded anew to int8 with a scale for each row."""


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the target `ethos-u85`."""
    yield TargetRecord(
        name="ethos-u85",
        summary="Arm Ethos-U85: linear and feed-forward parts, compiled by Vela (not run here)",
        loader="gem_ethos.target:EthosTarget",
        reference_url="https://developer.arm.com/Processors/Ethos-U85",
        capabilities=frozenset({"routed_lora", "cache-f16", "cache-q8", *SCHEMES}),
    )
