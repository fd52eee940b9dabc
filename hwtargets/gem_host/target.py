"""Compile for the machine at hand and run in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_host.processor import LEVELS, choose_level, memory_bytes, missing_flags
from gemcore.bundle import WEIGHTS
from gemcore.errors import BundleError
from gemcore.reports import DelegationReport, DeviceProfile, ExportReport, Readiness, Sourced
from gemcore.toolchain import missing_compiler

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.compiler.export import ExportedDecoder
    from gemcore.models.config import ModelConfig
    from gemcore.runtime.executor import NativeExecutor
    from gemcore.runtime.settings import OpenSettings

LIBRARY = "model.so"


@attrs.frozen
class HostTarget:
    """This machine's processor.

    Attributes:
        instructions: a level of `gem_host.processor.LEVELS`, or `auto`.
    """

    instructions: str = "auto"

    def profile(self) -> DeviceProfile:
        """Cores and memory of this machine; its rates are measured by `gem bench`, not looked up."""
        from gemcore.runtime.tvm_runtime import usable_cores

        memory = Sourced(value=memory_bytes(), source="operating system")
        return DeviceProfile(name="host", cores=usable_cores(), memory_bytes=memory)

    def describe(self) -> dict[str, Any]:
        """What a bundle must remember to run here, and what its code depends on."""
        level = choose_level(self.instructions)
        return {"instructions": level.name, "machine": level.machine, "tvm_target": level.target}

    def build(
        self, exported: ExportedDecoder, config: ModelConfig, folder: Path
    ) -> DelegationReport:
        """Write the compiled decoder to `folder`."""
        from gemcore.compiler import instructions
        from gemcore.compiler.build import build_library
        from gemcore.compiler.lower import lower
        from gemcore.compiler.operations import count_operations

        level = choose_level(self.instructions)
        isa = getattr(instructions, level.kernels)
        build_library(lower(exported, config, isa), level.target, folder / LIBRARY)
        return DelegationReport(
            target="host",
            unit=level.name,
            execution="native",
            operations=count_operations(exported.program, config, level.name),
        )

    def readiness(self) -> Readiness:
        """Whether there is a C++ compiler to link with; what was compiled here runs here."""
        return Readiness(execution="native", build=missing_compiler())

    def open(self, bundle: Bundle, settings: OpenSettings) -> NativeExecutor:
        """Load what `build` wrote; BundleError when this machine lacks what it was compiled for."""
        from gemcore.runtime.executor import NativeExecutor
        from gemcore.runtime.mapped_weights import map_weights

        check_instructions(bundle.manifest.target_details)
        weights = map_weights(bundle.folder / WEIGHTS, bundle.manifest.weights)
        return NativeExecutor(bundle.folder / LIBRARY, weights, settings.threads)

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Copy the bundle: on Linux, GEM itself is what applications call."""
        from gem_host.export import export

        return export(bundle, folder)


def check_instructions(details: Mapping[str, Any]) -> None:
    """Raise BundleError when this machine lacks what a bundle of these details was compiled for."""
    level = next((level for level in LEVELS if level.name == details.get("instructions")), None)
    if level is None:
        raise BundleError(
            f"the bundle asks for unknown instructions '{details.get('instructions')}'"
        )
    lacks = missing_flags(level)
    if lacks:
        raise BundleError(
            f"the bundle was compiled for {level.name}, but this machine lacks "
            f"{', '.join(lacks)}: compile the model here"
        )
