"""Android phones: a shared library that needs nothing, compiled ahead of time, with a C header."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_arm.phones import PIXEL_6
from gemcore.reports import DelegationReport, DeviceProfile, ExportReport, Readiness
from gemcore.targets import check_machine
from gemcore.toolchain import missing_folder, missing_tools

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.compiler.export import ExportedDecoder
    from gemcore.models.config import ModelConfig
    from gemcore.runtime.executor import Executor
    from gemcore.runtime.settings import OpenSettings

LIBRARY = "libgem_model.so"
RUNNER = "gem-runner"
MACHINE = "aarch64-android"
HEADERS = ("gem.h", "gem_model.h")

TRIPLE = "aarch64-linux-android31"
PAGE = 16384
"""Bytes of a page on newer phones; a library for these works with smaller pages too."""

EMULATOR, SYSTEM_ROOT = "qemu-aarch64", "/usr/aarch64-linux-gnu"
COMPILER, LINKER, LINUX_COMPILER = "clang-19", "ld.lld-19", "aarch64-linux-gnu-gcc"

_BUILD_TOOLS = (
    (COMPILER, "clang-19"),
    (LINKER, "lld-19"),
    (LINUX_COMPILER, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
)
_RUN_TOOLS = ((EMULATOR, "qemu-user"),)

UNVERIFIED = (
    "The library was not loaded by Android's own loader and never ran on a phone: it ran in a Linux "
    "program on an emulator of the processor.",
    "Nothing is known about speed or energy on a phone: instructions on an emulator take other times.",
    "Threads, which the app provides through gem_use_threads, were not tried with Android's scheduler.",
)


@attrs.frozen(kw_only=True)
class AndroidPhone:
    """An aarch64 phone.

    Attributes:
        name: of the target.
        cpu: what compilers and emulators call the processor that has what all cores have.
        features: of all cores, as LLVM calls them.
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
            "kernels": self.kernels,
            "driver": driver_digest(),
        }

    def tvm_target(self) -> dict[str, Any]:
        """The target, as TVM takes it."""
        return {
            "kind": "llvm",
            "mtriple": TRIPLE,
            "mcpu": self.cpu,
            "mattr": list(self.features),
        }

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
        """Write the library, its headers and the runner to `folder`."""
        from gemcore.compiler import instructions
        from gemcore.compiler.aot import compile_ahead
        from gemcore.compiler.aot_link import Toolchain, link_shared
        from gemcore.compiler.aot_runner import build_runner
        from gemcore.compiler.lower import lower
        from gemcore.compiler.operations import count_operations

        module = lower(exported, config, getattr(instructions, self.kernels))
        with tempfile.TemporaryDirectory(prefix=".ahead-", dir=folder) as temporary:
            work = Path(temporary)
            ahead = compile_ahead(module, self.tvm_target(), exported, config, work)
            link_shared(ahead, self._toolchain(), work, folder / LIBRARY)
            linux = Toolchain(compiler=(LINUX_COMPILER, "-mno-outline-atomics"))
            build_runner(ahead, linux, work).replace(folder / RUNNER)
            for header in ahead.headers:
                header.replace(folder / header.name)
        return DelegationReport(
            target=self.name,
            unit=self.cpu,
            execution="emulated",
            operations=count_operations(exported.program, config, self.cpu),
            unverified=UNVERIFIED,
        )

    def _toolchain(self) -> Any:
        from gemcore.compiler.aot_link import Toolchain

        return Toolchain(
            compiler=(COMPILER, f"--target={TRIPLE}", "-mno-outline-atomics"),
            linker=(
                LINKER, "-s", "-z", f"max-page-size={PAGE}", "-z", "now", "--hash-style=gnu",
                "--no-undefined", "-soname", LIBRARY,
            ),
        )  # fmt: skip

    def open(self, bundle: Bundle, settings: OpenSettings) -> Executor:
        """Run it on an emulator of the phone's processor, with one thread."""
        return self.emulate(bundle)

    def emulate(self, bundle: Bundle, cpu: str | None = None) -> Executor:
        """Load the library in a Linux program, on an emulator of the phone's processor or of `cpu`."""
        from gemcore.runtime.process_executor import emulated

        check_machine(bundle, self.name, MACHINE)
        words = (EMULATOR, "-cpu", cpu or self.cpu, "-L", SYSTEM_ROOT)
        return emulated(bundle, words, RUNNER, LIBRARY)

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Write the library, headers, weights and a runner to `folder`."""
        from gem_arm.android_export import export

        return export(self, bundle, folder)


def pixel_6() -> AndroidPhone:
    """The Pixel 6: two Cortex-X1, two Cortex-A76 and four Cortex-A55, all with dot products."""
    return AndroidPhone(
        name="pixel6",
        cpu="cortex-a76",
        features=("+neon", "+dotprod"),
        kernels="NEON_DOT",
        device=PIXEL_6,
    )
