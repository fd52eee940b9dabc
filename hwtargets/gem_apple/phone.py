"""iPhones: a static library in an `.xcframework`; the same kernels run on an emulator for Linux."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_apple.profile import IPHONE_13
from gemcore.reports import DelegationReport, DeviceProfile, ExportReport, Readiness
from gemcore.targets import check_machine
from gemcore.toolchain import missing_folder, missing_tools

if TYPE_CHECKING:
    import tvm

    from gemcore.bundle import Bundle
    from gemcore.compiler.aot_link import Toolchain
    from gemcore.compiler.export import ExportedDecoder
    from gemcore.models.config import ModelConfig
    from gemcore.runtime.executor import Executor
    from gemcore.runtime.settings import OpenSettings

TRIPLE = "aarch64-apple-ios15.0"
"""With arm64 instead of aarch64, TVM does not know the architecture."""

MACHINE = "arm64-ios"
LINUX_TRIPLE = "aarch64-linux-gnu"

TWIN = "emulated/libgem_model.so"
"""The same kernels as an ELF library, which an emulator runs."""

RUNNER = "emulated/gem-runner"

EMULATOR, SYSTEM_ROOT = "qemu-aarch64", "/usr/aarch64-linux-gnu"
EMULATED_CPU = "cortex-a76"
"""qemu knows no processor of Apple's; this one has the instructions that are used."""

COMPILER, ARCHIVER, LINKER = "clang-19", "llvm-ar-19", "ld.lld-19"
LINUX_COMPILER = "aarch64-linux-gnu-gcc"

_BUILD_TOOLS = (
    (COMPILER, "clang-19"),
    (ARCHIVER, "llvm-19"),
    (LINKER, "lld-19"),
    (LINUX_COMPILER, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
)
_RUN_TOOLS = ((EMULATOR, "qemu-user"),)

UNVERIFIED = (
    "The Mach-O library itself never ran: there is no Mac here and no phone. Its kernels, compiled by the "
    "same compiler from the same intermediate code for aarch64 Linux, ran on an emulator.",
    "No app was linked with Apple's linker, and nothing was signed. LLVM's tools read the library: "
    "architecture, platform, oldest iOS, defined and undefined symbols.",
    "Swift did not import the module map.",
    "Apple's C library gives the router's exp and log their last bit: routing can differ from the "
    "emulated run where it is at a threshold.",
    "Nothing is known about speed, energy, or heat on a phone.",
    "The library works on the processor's cores alone. gem_products.metal, its products once more for the "
    "GPU, was neither compiled by Apple's compiler nor run on a GPU: its threads ran one after the other "
    "on another processor. The Neural Engine is not used.",
)


@attrs.frozen(kw_only=True)
class Phone:
    """A phone with an Apple processor.

    Attributes:
        name: of the target.
        cpu: the processor, as LLVM calls it.
        features: that the kernels use, as LLVM calls them.
        kernels: name of the kernels' `InstructionSet` in `gemcore.compiler.instructions`.
        device: what it is and how fast its parts are.
    """

    name: str
    cpu: str
    features: tuple[str, ...]
    kernels: str
    device: DeviceProfile

    def profile(self) -> DeviceProfile:
        """What the phone is, by published figures."""
        return self.device

    def describe(self) -> dict[str, Any]:
        """What the code is compiled for, and what its driver was made of."""
        from gemcore.runtime.ahead import driver_digest

        return {
            "machine": MACHINE,
            "cpu": self.cpu,
            "tvm_target": self.tvm_target(),
            "emulated": self.twin_target(),
            "kernels": self.kernels,
            "driver": driver_digest(),
        }

    def tvm_target(self) -> dict[str, Any]:
        """The phone, as TVM takes it."""
        target = {"kind": "llvm", "mtriple": TRIPLE, "mcpu": self.cpu}
        return {**target, "mattr": list(self.features)}

    def twin_target(self) -> dict[str, Any]:
        """What the emulator runs, as TVM takes it."""
        target = {"kind": "llvm", "mtriple": LINUX_TRIPLE, "mcpu": EMULATED_CPU}
        return {**target, "mattr": list(self.features)}

    def readiness(self) -> Readiness:
        """Always emulated; with the tools that are missing."""
        run = missing_tools(self.name, "emulation", _RUN_TOOLS)
        run = run or missing_folder(
            self.name, "emulation", "a C library", Path(SYSTEM_ROOT), "libc6-arm64-cross"
        )
        build = missing_tools(self.name, "compiling", _BUILD_TOOLS)
        return Readiness(execution="emulated", build=build, run=run)

    def build(
        self, exported: ExportedDecoder, config: ModelConfig, folder: Path
    ) -> DelegationReport:
        """Write the framework, and its twin with a runner, to `folder`."""
        from gemcore.compiler import instructions
        from gemcore.compiler.lower import lower
        from gemcore.compiler.operations import count_operations

        module = lower(exported, config, getattr(instructions, self.kernels))
        with tempfile.TemporaryDirectory(prefix=".ahead-", dir=folder) as temporary:
            work = Path(temporary)
            (work / "phone").mkdir()
            (work / "twin").mkdir()
            self._build_framework(module, exported, config, (work / "phone", folder))
            self._build_twin(module, exported, config, (work / "twin", folder))
        return DelegationReport(
            target=self.name,
            unit=self.cpu,
            execution="emulated",
            operations=count_operations(exported.program, config, self.cpu),
            unverified=UNVERIFIED,
        )

    def _build_framework(
        self,
        module: tvm.IRModule,
        exported: ExportedDecoder,
        config: ModelConfig,
        folders: tuple[Path, Path],
    ) -> None:
        from gem_apple.framework import LIBRARY, write_framework
        from gemcore.compiler.aot import compile_ahead
        from gemcore.compiler.aot_link import Toolchain, archive

        work, folder = folders
        ahead = compile_ahead(module, self.tvm_target(), exported, config, work)
        # iOS has a C library, so an app's own functions of these names are not replaced.
        tools = Toolchain(
            compiler=(COMPILER, f"--target={TRIPLE}"), linker=(ARCHIVER, "--format=darwin")
        )
        archive(ahead, tools, work, work / LIBRARY)
        write_framework(folder, work / LIBRARY, ahead.headers)

    def _build_twin(
        self,
        module: tvm.IRModule,
        exported: ExportedDecoder,
        config: ModelConfig,
        folders: tuple[Path, Path],
    ) -> None:
        from gemcore.compiler.aot import compile_ahead
        from gemcore.compiler.aot_link import link_shared
        from gemcore.compiler.aot_runner import build_runner

        work, folder = folders
        ahead = compile_ahead(module, self.twin_target(), exported, config, work)
        (folder / TWIN).parent.mkdir()
        link_shared(ahead, _linux_tools(), work, folder / TWIN)
        linux: Toolchain = attrs.evolve(_linux_tools(), compiler=(LINUX_COMPILER,))
        build_runner(ahead, linux, work).replace(folder / RUNNER)

    def open(self, bundle: Bundle, settings: OpenSettings) -> Executor:
        """Run the twin on an emulator, with one thread."""
        from gemcore.runtime.process_executor import emulated

        check_machine(bundle, self.name, MACHINE)
        words = (EMULATOR, "-cpu", EMULATED_CPU, "-L", SYSTEM_ROOT)
        return emulated(bundle, words, RUNNER, TWIN)

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Write the framework and the weights to `folder`."""
        from gem_apple.export import export

        return export(bundle, folder)


def _linux_tools() -> Toolchain:
    from gemcore.compiler.aot_link import Toolchain

    return Toolchain(
        compiler=(COMPILER, f"--target={LINUX_TRIPLE}", "-mno-outline-atomics"),
        linker=(LINKER, "-s", "-z", "now", "--no-undefined"),
    )


def iphone_13() -> Phone:
    """The iPhone 13, whose A15 has two fast cores with dot products."""
    return Phone(
        name="iphone13",
        cpu="apple-a15",
        features=("+neon", "+dotprod"),
        kernels="NEON_DOT",
        device=IPHONE_13,
    )
