"""aarch64 boards with Linux: a shared library, and a runner that needs only TVM's runtime libraries."""

from __future__ import annotations

import hashlib
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_arm.profiles import RASPBERRY_PI_4
from gem_arm.runner import COMPILER, RUNNER, SOURCE
from gemcore.bundle import WEIGHTS
from gemcore.errors import BundleError
from gemcore.reports import DelegationReport, DeviceProfile, ExportReport, Readiness
from gemcore.targets import check_machine
from gemcore.toolchain import missing_folder, missing_tools

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.compiler.export import ExportedDecoder
    from gemcore.models.config import ModelConfig
    from gemcore.runtime.executor import Executor
    from gemcore.runtime.settings import OpenSettings

LIBRARY = "model.so"
MACHINE = "aarch64"
EMULATOR = "qemu-aarch64"
SYSTEM_ROOT = "/usr/aarch64-linux-gnu"
"""Where Debian's cross packages keep the C library of the board."""

_BUILD_TOOLS = ((COMPILER, "g++-aarch64-linux-gnu"),)
_RUN_TOOLS = ((EMULATOR, "qemu-user"),)


@attrs.frozen(kw_only=True)
class LinuxBoard:
    """An aarch64 board.

    Attributes:
        name: of the target.
        cpu: the processor, as compilers and emulators call it.
        features: of the processor, as LLVM calls them.
        kernels: name of the kernels' `InstructionSet` in `gemcore.compiler.instructions`.
        needs: processor flags, as Linux names them.
        device: what it is and how fast its parts are.
    """

    name: str
    cpu: str
    features: tuple[str, ...]
    kernels: str
    needs: frozenset[str]
    device: DeviceProfile

    def profile(self) -> DeviceProfile:
        """What the board is, by published figures."""
        return self.device

    def describe(self) -> dict[str, Any]:
        """The instructions that the code uses, and what the runner was made of."""
        return {
            "machine": MACHINE,
            "cpu": self.cpu,
            "needs": sorted(self.needs),
            "tvm_target": self.tvm_target(),
            "kernels": self.kernels,
            "runner": hashlib.sha256(SOURCE.read_bytes()).hexdigest(),
        }

    def tvm_target(self) -> dict[str, Any]:
        """The target, as TVM takes it."""
        return {
            "kind": "llvm",
            "mtriple": "aarch64-linux-gnu",
            "mcpu": self.cpu,
            "mattr": list(self.features),
        }

    def readiness(self) -> Readiness:
        """Native on aarch64 Linux, elsewhere emulated; with what is missing for either."""
        build = missing_tools(self.name, "compiling", _BUILD_TOOLS)
        if is_aarch64():
            return Readiness(execution="native", build=build)
        run = missing_tools(self.name, "emulation", _RUN_TOOLS)
        run = run or missing_folder(
            self.name,
            "emulation",
            "the board's C library",
            Path(SYSTEM_ROOT),
            "libstdc++6-arm64-cross",
        )
        return Readiness(execution="emulated", build=build, run=run)

    def build(
        self, exported: ExportedDecoder, config: ModelConfig, folder: Path
    ) -> DelegationReport:
        """Write the compiled decoder and the runner to `folder`."""
        from gem_arm.runner import build_runner
        from gemcore.compiler import instructions
        from gemcore.compiler.build import build_library
        from gemcore.compiler.lower import lower
        from gemcore.compiler.operations import count_operations

        isa = getattr(instructions, self.kernels)
        build_library(
            lower(exported, config, isa),
            self.tvm_target(),
            folder / LIBRARY,
            compiler=COMPILER,
            options=(f"-mcpu={self.cpu}", "-s"),
        )
        build_runner(folder / RUNNER, self.cpu)
        return DelegationReport(
            target=self.name,
            unit=self.cpu,
            execution=self.readiness().execution,
            operations=count_operations(exported.program, config, self.cpu),
        )

    def open(self, bundle: Bundle, settings: OpenSettings) -> Executor:
        """Run it in this process on an aarch64 machine, on a board over RPC, or on an emulator here."""
        if settings.rpc is not None:
            from gem_arm.rpc import open_remote

            return open_remote(bundle, LIBRARY, settings.rpc)
        return self._open_native(bundle, settings) if is_aarch64() else self.emulate(bundle)

    def emulate(self, bundle: Bundle, cpu: str | None = None) -> Executor:
        """Run it on an emulator of the board's processor, or of `cpu`, with one thread."""
        from gem_arm.libraries import runtime_folder
        from gemcore.runtime.process_executor import emulated

        check_machine(bundle, self.name, MACHINE)
        # The bundle's own files may lie anywhere; TVM's libraries come from the cache.
        environment = ("-E", f"LD_LIBRARY_PATH={runtime_folder()}")
        words = (EMULATOR, "-cpu", cpu or self.cpu, "-L", SYSTEM_ROOT, *environment)
        return emulated(bundle, words, RUNNER, LIBRARY)

    def _open_native(self, bundle: Bundle, settings: OpenSettings) -> Executor:
        from gemcore.runtime.executor import NativeExecutor
        from gemcore.runtime.mapped_weights import map_weights

        lacks = sorted(self.needs - _flags())
        if lacks:
            raise BundleError(
                f"the bundle was compiled for {self.cpu}, but this machine lacks {', '.join(lacks)}: "
                "compile the model for another target"
            )
        weights = map_weights(bundle.folder / WEIGHTS, bundle.manifest.weights)
        return NativeExecutor(bundle.folder / LIBRARY, weights, settings.threads)

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Write bundle, runner, TVM's libraries and a plan for the runner to `folder`."""
        from gem_arm.export import export

        return export(self, bundle, folder)


def raspberry_pi_4() -> LinuxBoard:
    """The Raspberry Pi 4: four Cortex-A72, which have no dot-product instructions."""
    return LinuxBoard(
        name="rpi4",
        cpu="cortex-a72",
        features=("+neon",),
        kernels="NEON",
        needs=frozenset({"asimd"}),
        device=RASPBERRY_PI_4,
    )


def is_aarch64() -> bool:
    """Whether this machine is an aarch64 one with Linux."""
    return platform.system() == "Linux" and platform.machine() == "aarch64"


def _flags() -> frozenset[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "Features":
            return frozenset(value.split())
    return frozenset()


def copy_runtime(folder: Path) -> None:
    """Copy TVM's runtime libraries to the new `folder`."""
    from gem_arm.libraries import LIBRARIES, runtime_folder

    source = runtime_folder()
    folder.mkdir(parents=True)
    for library in LIBRARIES:
        shutil.copy2(source / library.name, folder / library.name)
