"""The target `riscv64`: any processor of this machine's kind, used by this process."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from gemcore.errors import BundleError, GemError
from gemcore.reports import DelegationReport, DeviceProfile

MACHINES = {
    "x86_64": ({"kind": "llvm", "mcpu": "x86-64"}, "PLAIN"),
    "aarch64": ({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}, "NEON"),
}
"""For each kind of machine its TVM target, and the instructions that the kernels may use."""


@attrs.frozen
class Riscv64Target:
    """Instructions that every such processor has, so a bundle runs on all of them."""

    cores: int

    def profile(self) -> DeviceProfile:
        """What the device is; figures belong here with the source of each, or not at all."""
        return DeviceProfile(name="riscv64", cores=self.cores)

    def describe(self) -> dict[str, Any]:
        """What a bundle must remember to run."""
        return {"machine": platform.machine()}

    def build(self, exported: Any, config: Any, folder: Path) -> DelegationReport:
        """Compile the decoder, and say which unit runs what."""
        from gemcore.compiler import instructions
        from gemcore.compiler.build import build_library
        from gemcore.compiler.lower import lower
        from gemcore.compiler.operations import count_operations

        if platform.machine() not in MACHINES:
            known = ", ".join(MACHINES)
            raise GemError(f"target 'riscv64' knows {known}, not {platform.machine()}")
        target, kernels = MACHINES[platform.machine()]
        module = lower(exported, config, getattr(instructions, kernels))
        build_library(module, target, folder / "model.so")
        operations = count_operations(exported.program, config, "cpu")
        return DelegationReport(
            target="riscv64", unit="cpu", execution="native", operations=operations
        )

    def open(
        self, folder: Path, details: dict[str, Any], weights: Sequence[Any], threads: int | None
    ) -> Any:
        """Load what `build` wrote; without importing torch."""
        from gemcore.runtime.executor import NativeExecutor

        if details.get("machine") != platform.machine():
            raise BundleError(
                f"the bundle is for {details.get('machine')}, but this is {platform.machine()}"
            )
        return NativeExecutor(folder / "model.so", weights, threads or self.cores)
