"""Qualcomm's Hexagon processor with HVX: one program that holds the whole decoder, without TVM's runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_npu.profile import HEXAGON
from gem_npu.toolchain import (
    EMULATOR,
    HVX_TARGET,
    LINK_FLAGS,
    NATIVE,
    SCALAR_TARGET,
    missing_emulator,
    missing_linker,
)
from gemcore.bundle import WEIGHTS
from gemcore.reports import DelegationReport, DeviceProfile, ExportReport, Readiness, delegated
from gemcore.targets import check_machine

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.compiler.aot import AheadOfTime
    from gemcore.compiler.export import ExportedDecoder
    from gemcore.models.config import ModelConfig
    from gemcore.runtime.executor import Executor
    from gemcore.runtime.settings import OpenSettings

PROGRAM = "model.elf"
SOURCES = "program"
"""Folder of the objects and the C files that the program is linked from."""

MACHINE = "hexagon"
VECTORS, SCALAR = "hvx", "scalar"
"""Units: the vector extension, and the processor's scalar instructions."""

_FLOATS = "it computes in float32, which HVX does not round as other processors do"
_WIDTH = "HVX has attention only for heads whose width is a multiple of 64"


@attrs.frozen
class HexagonTarget:
    """The compute processor of a Snapdragon, as version 68 of its instructions has it."""

    def profile(self) -> DeviceProfile:
        """What the device is, by published figures."""
        return HEXAGON

    def describe(self) -> dict[str, Any]:
        """The instructions that the code uses, and what the program is made of."""
        digest = hashlib.sha256()
        for path in sorted(NATIVE.iterdir()):
            digest.update(path.read_bytes())
        return {
            "machine": MACHINE,
            "tvm_target": SCALAR_TARGET,
            "tvm_target_hvx": HVX_TARGET,
            "link": list(LINK_FLAGS),
            "native": digest.hexdigest(),
        }

    def readiness(self) -> Readiness:
        """Emulated, where linker and emulator are here."""
        return Readiness(execution="emulated", build=missing_linker(), run=missing_emulator())

    def build(
        self, exported: ExportedDecoder, config: ModelConfig, folder: Path
    ) -> DelegationReport:
        """Write the program to `folder`, and the weights anew in the order that HVX reads."""
        from gem_npu.program import build_program
        from gem_npu.weights import rearrange
        from gemcore.compiler import instructions
        from gemcore.compiler.aot import compile_ahead
        from gemcore.compiler.lower import lower

        sources = folder / SOURCES
        sources.mkdir()
        module = lower(exported, config, instructions.HVX)
        ahead = compile_ahead(
            module, SCALAR_TARGET, exported, config, sources,
            units={VECTORS: HVX_TARGET}, alignment=128,
        )  # fmt: skip
        build_program(ahead, folder / PROGRAM)
        rearrange(folder / WEIGHTS, exported)
        return self._report(exported, config, ahead)

    def _report(
        self, exported: ExportedDecoder, config: ModelConfig, ahead: AheadOfTime
    ) -> DelegationReport:
        from gemcore.compiler.kernels.attention_hvx import takes
        from gemcore.compiler.operations import count_operations

        operations = count_operations(exported.program, config, VECTORS)
        vectors = {"qlinear"} | ({"attention_q8"} if takes(config) else set())
        elsewhere = {
            o.operation: (SCALAR, _WIDTH if o.operation == "attention_q8" else _FLOATS)
            for o in operations
            if o.operation not in vectors
        }
        return DelegationReport(
            target="npu",
            unit=VECTORS,
            execution="emulated",
            operations=delegated(operations, elsewhere),
            unverified=(
                "The program was run on qemu-hexagon, which says nothing of time; no Hexagon processor "
                "has run it, and none was reached over FastRPC.",
            ),
        )

    def open(self, bundle: Bundle, settings: OpenSettings) -> Executor:
        """Run it on qemu-hexagon, with one thread."""
        from gemcore.runtime.process_executor import emulated

        check_machine(bundle, "npu", MACHINE)
        return emulated(bundle, EMULATOR, PROGRAM, PROGRAM)

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Write program, objects, sources and weights to `folder`."""
        from gem_npu.export import export

        return export(bundle, folder)
