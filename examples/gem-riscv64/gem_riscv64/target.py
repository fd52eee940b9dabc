"""The target `riscv64`: GEM's portable kernels for RV64GC, and a program that runs them.

TVM compiles the kernels to an object of RISC-V code; GEM's driver for models without TVM's runtime, and
the runner in `native/`, are compiled by Debian's cross compiler and linked with them to one program. On
a RISC-V machine it is started as it is, elsewhere by the emulator of QEMU, to which GEM's process
executor talks.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import attrs
from gemcore.bundle import WEIGHTS, Bundle
from gemcore.errors import BundleError, GemError
from gemcore.export import copy_weights
from gemcore.reports import DelegationReport, DeviceProfile, ExportReport, Readiness
from gemcore.runtime.settings import OpenSettings
from gemcore.toolchain import missing_tools

NAME, MACHINE, UNIT = "riscv64", "riscv64", "rv64gc"
COMPILER, EMULATOR = "riscv64-linux-gnu-gcc", "qemu-riscv64"
RUNNER = "gem-runner"
NATIVE = Path(__file__).parent / "native"
SOURCES = (NATIVE / "runner.c", NATIVE / "halves.c")
TARGET = {
    "kind": "llvm",
    "mtriple": "riscv64-unknown-linux-gnu",
    "mcpu": "generic-rv64",
    "mattr": ["+m", "+a", "+f", "+d", "+c"],
    "mabi": "lp64d",
}
FLAGS = ("-O2", "-std=gnu11", "-march=rv64gc", "-mabi=lp64d", "-static", "-s")


@attrs.frozen
class RiscvTarget:
    """Any RISC-V processor with the extensions G and C."""

    def profile(self) -> DeviceProfile:
        """No particular device, so no figures: one core, which the runner uses."""
        return DeviceProfile(name=NAME, cores=1, device="any RV64GC processor with Linux")

    def describe(self) -> dict[str, Any]:
        """What the code was compiled for, and what the runner was made of."""
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()
        return {"machine": MACHINE, "tvm_target": TARGET, "flags": [*FLAGS], "native": digest}

    def readiness(self) -> Readiness:
        """The cross compiler to build, and QEMU to run where this is no RISC-V machine."""
        build = missing_tools(NAME, "compiling", [(COMPILER, "gcc-riscv64-linux-gnu")])
        if platform.machine() == MACHINE:
            return Readiness(execution="native", build=build)
        run = missing_tools(NAME, "emulation", [(EMULATOR, "qemu-user")])
        return Readiness(execution="emulated", build=build, run=run)

    def build(self, exported: Any, config: Any, folder: Path) -> DelegationReport:
        """Write the runner, with the model's code in it."""
        from gemcore.compiler.aot import compile_ahead
        from gemcore.compiler.instructions import InstructionSet
        from gemcore.compiler.lower import lower
        from gemcore.compiler.operations import count_operations

        isa = InstructionSet(dot="plain", fused_multiply_add=True)
        with tempfile.TemporaryDirectory(prefix="gem-riscv64-") as name:
            temporary = Path(name)
            lowered = lower(exported, config, isa)
            ahead = compile_ahead(lowered, TARGET, exported, config, temporary)
            program = temporary / RUNNER
            sources = [str(path) for path in (*SOURCES, *ahead.sources, *ahead.objects)]
            _link([*sources, f"-I{temporary}", "-o", str(program), "-lm"])
            shutil.copy2(program, folder / RUNNER)
        return DelegationReport(
            target=NAME,
            unit=UNIT,
            execution=self.readiness().execution,
            operations=count_operations(exported.program, config, UNIT),
            unverified=("It was not run on a RISC-V processor, only under QEMU.",),
        )

    def open(self, bundle: Bundle, settings: OpenSettings) -> Any:
        """Start the runner, under the emulator where this is no RISC-V machine."""
        from gemcore.runtime.plan import bundle_plan
        from gemcore.runtime.process_executor import ProcessExecutor

        manifest, folder = bundle.manifest, bundle.folder.absolute()
        machine = manifest.target_details.get("machine")
        if machine != MACHINE:
            raise BundleError(f"the bundle is for {machine}, and target '{NAME}' for {MACHINE}")
        native = platform.machine() == MACHINE
        runner = str(folder / RUNNER)
        return ProcessExecutor(
            [runner] if native else [EMULATOR, runner],
            bundle_plan(bundle, runner, str(folder / WEIGHTS), 1),
            experts=len(manifest.experts),
            vocabulary=manifest.config.vocabulary_size,
            machine="" if native else EMULATOR,
            execution="native" if native else "emulated",
        )

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Write the runner and its weights."""
        shutil.copy2(bundle.folder / RUNNER, folder / RUNNER)
        return ExportReport(
            files=((RUNNER, "a static RISC-V program"), *copy_weights(bundle, folder)),
            link="Nothing is linked: the program needs no library.",
            call=f"`./{RUNNER} serve PLAN DESCRIPTOR`, as `native/runner.c` describes it.",
            verified=("`python -m pytest` of gem-riscv64 compares it with torch, under QEMU.",),
            unverified=("It was not run on a RISC-V processor.",),
        )


def _link(words: list[str]) -> None:
    try:
        done = subprocess.run(
            [COMPILER, *FLAGS, *words], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise GemError(f"cannot start {COMPILER}: {error.strerror}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
        raise GemError(f"linking for target '{NAME}' failed: {said[0] if said else done.stderr}")
