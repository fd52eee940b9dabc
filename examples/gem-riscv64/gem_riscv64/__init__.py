"""gem-riscv64: a target for GEM, RISC-V processors of 64 bits with Linux.

GEM imports this module for every command, so it imports neither torch nor tvm; `target.py` may.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemcore import hookimpl
from gemcore.records import TargetRecord
from gemcore.schemes import SCHEMES


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the target `riscv64`."""
    yield TargetRecord(
        name="riscv64",
        summary="RISC-V (RV64GC) with Linux; on other machines it runs under qemu-riscv64",
        loader="gem_riscv64.target:RiscvTarget",
        reference_url="https://riscv.org/specifications/",
        capabilities=frozenset(
            {"execute", "routed_lora", "vocabulary-bands", "cache-f16", "cache-q8", *SCHEMES}
        ),
    )
