"""gem-riscv64: a target for GEM.

GEM imports this module for every command, so it imports neither torch nor tvm; `target.py` may.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemcore import hookimpl
from gemcore.records import Option, TargetRecord


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the target `riscv64`."""
    yield TargetRecord(
        name="riscv64",
        summary="any processor of this machine's kind",
        loader="gem_riscv64.target:Riscv64Target",
        reference_url="https://tvm.apache.org/docs/",
        options=(
            Option(name="cores", type=int, default=1, minimum=1, help="processor cores to use"),
        ),
        # What it can do beside running, and the ways to store weights that its kernels read.
        capabilities=frozenset({"execute", "routed_lora", "f16", "q4a-g32", "q8-g32"}),
    )
