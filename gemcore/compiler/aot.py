"""Compile a whole decoder ahead of time: kernels and a driver in C, without TVM's runtime.

What `lower` gives goes through the passes that TVM's virtual machine would see; but the allocations are
planned here, and the calls become tables that a small driver in C goes through. Lengths stay open: the
driver computes sizes from the number of tokens, of wanted rows and of cache positions.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import tvm
from tvm import relax

from gemcore.compiler.aot_graph import AheadFunction, read_function
from gemcore.compiler.aot_memory import plan_memory, plan_scratch
from gemcore.compiler.aot_source import AheadModel, model_header, sizes_header, tables
from gemcore.compiler.export import CALL_INPUTS, PRIOR_INPUTS, ROUTES_INPUTS, ExportedDecoder
from gemcore.models.cache_layout import DEFAULT_CACHE
from gemcore.models.config import ModelConfig
from gemcore.runtime.executor import FORWARD, PRIOR, ROUTES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NATIVE = Path(__file__).parent / "native" / "ahead"
"""The driver, and the header that an app includes."""

PUBLIC = ("gem.h", "gem_model.h")
"""Headers that an app needs."""

UNIT = "gem_unit"
"""Attribute of a kernel that is compiled for a unit of its own."""

_WEIGHT_ALIGNMENT = 64  # bytes; as files of weights have it
_NO_UNITS: Mapping[str, dict[str, Any]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class AheadOfTime:
    """What is to be compiled and linked.

    Attributes:
        objects: compiled kernels, first those of the target itself.
        sources: C files of the driver and the tables.
        math: a C file with what kernels call of a C library, for where there is none.
        headers: what an app includes.
        model: what the tables say.
    """

    objects: tuple[Path, ...]
    sources: tuple[Path, ...]
    math: Path
    headers: tuple[Path, ...]
    model: AheadModel


def compile_ahead(
    module: tvm.IRModule,
    target: dict[str, Any],
    exported: ExportedDecoder,
    config: ModelConfig,
    folder: Path,
    *,
    units: Mapping[str, dict[str, Any]] = _NO_UNITS,
    alignment: int = _WEIGHT_ALIGNMENT,
) -> AheadOfTime:
    """Compile `module` for `target` into objects and C files in `folder`.

    Args:
        module: what `lower` gave for `exported`.
        target: a TVM target as a dict, which is its own host.
        exported: the traced decoder.
        config: the model's shape.
        folder: where the files are written.
        units: TVM targets by name; kernels whose attribute `gem_unit` is one of them are compiled
            for that one, into `kernels-<unit>.o`.
        alignment: bytes that weights and caches will be aligned to.

    Raises:
        GemError: when the model does something that only TVM's virtual machine could do.
    """
    planned = _planned(module, _target(target))
    model = _read(planned, exported, config, alignment)
    kernels = _kernels(planned)
    objects = []
    for unit in (None, *units):
        own = {n: k for n, k in kernels.items() if _unit(k, units) == unit}
        if own or unit is None:
            path = folder / ("kernels.o" if unit is None else f"kernels-{unit}.o")
            compile_kernels(own, target if unit is None else units[unit], path)
            objects.append(path)
    for name in ("gem.h", "gem_tables.h", "gem_driver.c", "gem_math.c"):
        shutil.copyfile(NATIVE / name, folder / name)
    written = {
        "gem_model.h": model_header(model),
        "gem_sizes.h": sizes_header(model),
        "gem_tables.c": tables(model),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    return AheadOfTime(
        objects=tuple(objects),
        sources=(folder / "gem_driver.c", folder / "gem_tables.c"),
        math=folder / "gem_math.c",
        headers=tuple(folder / name for name in PUBLIC),
        model=model,
    )


def compile_kernels(kernels: Mapping[str, Any], target: dict[str, Any], path: Path) -> None:
    """Compile TVM functions by name into one object."""
    named = {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
    compiled = tvm.compile(tvm.IRModule(named), target=_target(target))
    compiled.mod.write_to_file(str(path))


def _target(target: dict[str, Any]) -> tvm.target.Target:
    made = tvm.target.Target(target)
    return tvm.target.Target(made, host=made)


def _planned(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """TVM's own pipeline for processors, up to where memory is planned."""
    from tvm.relax.backend.cpu_generic import pipeline

    passes = (
        pipeline.library_dispatch_passes(target)
        + pipeline.legalize_passes(target)
        + pipeline.dataflow_lower_passes(target)
    )
    with target:
        planned: tvm.IRModule = tvm.ir.transform.Sequential(passes)(module)
    return planned


def _kernels(module: tvm.IRModule) -> dict[str, Any]:
    return {
        variable.name_hint: function
        for variable, function in module.functions.items()
        if not isinstance(function, relax.Function)
    }


def _unit(kernel: Any, units: Mapping[str, Any]) -> str | None:
    unit = (kernel.attrs or {}).get(UNIT)
    return str(unit) if unit is not None and str(unit) in units else None


def _read(
    module: tvm.IRModule, exported: ExportedDecoder, config: ModelConfig, alignment: int
) -> AheadModel:
    inputs = {FORWARD: (*CALL_INPUTS, "priors")[: exported.call_inputs]}
    if exported.prior is not None:
        inputs[PRIOR] = PRIOR_INPUTS
    if exported.routes is not None:
        inputs[ROUTES] = ROUTES_INPUTS
    constants: list[npt.NDArray[np.generic]] = []
    functions: dict[str, AheadFunction] = {}
    for name, names in inputs.items():
        function = module[name]
        functions[name] = read_function(function, name, names, 2 * config.layers, constants)
    kernels = _kernels(module)
    first_cache = module[FORWARD].params[-1].ty.fields[0]
    return AheadModel(
        config=config,
        cache="q8" if str(first_cache.dtype) == "uint8" else DEFAULT_CACHE,
        functions=functions,
        memory={name: plan_memory(function) for name, function in functions.items()},
        scratch={name: plan_scratch(function, kernels) for name, function in functions.items()},
        weights=exported.weights,
        constants=tuple(constants),
        alignment=alignment,
    )
