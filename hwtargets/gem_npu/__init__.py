"""Qualcomm's Hexagon processors as a target."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import TargetRecord

SCHEMES = ("f16", "q4a-g32", "q4a-g64", "q4s-g32", "q8-g32")
"""Ways to store weights that the kernels read; products with `f16` are made without HVX."""


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the target `npu`."""
    yield TargetRecord(
        name="npu",
        summary="Qualcomm Hexagon with HVX, one program without TVM's runtime (emulated here)",
        loader="gem_npu.target:HexagonTarget",
        reference_url="https://docs.qualcomm.com/bundle/publicresource/topics/80-N2040-49/",
        capabilities=frozenset(
            {"execute", "routed_lora", "vocabulary-bands", "cache-f16", "cache-q8", *SCHEMES}
        ),
        # HVX attends to int8; to floats only scalar instructions do.
        preferred_cache="q8",
    )
