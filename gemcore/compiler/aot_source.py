"""The C files of a model that is compiled ahead of time: its tables and its constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.compiler.aot_extent import Extent
from gemcore.compiler.aot_graph import AheadFunction
from gemcore.compiler.aot_memory import ALIGNMENT, Memory
from gemcore.models.cache_layout import KEY_BLOCK, cache_dtype, cache_shapes
from gemcore.models.config import ModelConfig
from gemcore.runtime.executor import FORWARD, PRIOR, ROUTES

FUNCTIONS = (FORWARD, PRIOR, ROUTES)

_TYPES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "int8": (0, 8), "int16": (0, 16), "int32": (0, 32), "int64": (0, 64), "uint8": (1, 8),
        "float16": (2, 16), "float32": (2, 32), "float64": (2, 64), "bool": (6, 8),
    }
)  # fmt: skip
"""DLPack's code and bits."""

_STORED: Mapping[str, str] = MappingProxyType(
    {"float32": "F32", "float16": "F16", "uint8": "U8", "int8": "I8", "int32": "I32"}
)
"""Names of types in a safetensors file."""


@attrs.frozen(kw_only=True)
class AheadModel:
    """A whole model, read and planned.

    Attributes:
        config: its shape.
        cache: scheme of its cache.
        functions: `forward`, and `prior` and `routes` where it has them.
        memory: slots of each function.
        scratch: bytes that the kernels of each function allocate.
        weights: names, in the order of the code's inputs.
        constants: tensors that the code itself holds.
        alignment: bytes that weights and caches are aligned to.
    """

    config: ModelConfig
    cache: str
    functions: Mapping[str, AheadFunction]
    memory: Mapping[str, Memory]
    scratch: Mapping[str, Extent]
    weights: tuple[str, ...]
    constants: tuple[npt.NDArray[Any], ...]
    alignment: int

    def weight_table(self) -> list[tuple[str, str, int]]:
        """Name, NumPy's type and bytes of each weight."""
        found: dict[int, tuple[str, str, int]] = {}
        for tensor in self.functions[FORWARD].tensors:
            if tensor.place == "weight":
                size = tensor.bytes().constant or 0
                found.setdefault(tensor.index, (self.weights[tensor.index], tensor.dtype, size))
        return [found[i] for i in range(len(self.weights))]

    def experts(self) -> int:
        """How many experts there are."""
        forward = self.functions[FORWARD]
        if "priors" not in forward.inputs:
            return 0
        return forward.tensors[forward.inputs.index("priors")].shape[1].constant or 0

    def routing_layers(self) -> int:
        """How many layers route."""
        routes = self.functions.get(ROUTES)
        return 0 if routes is None else routes.tensors[routes.result].shape[0].constant or 0

    def has_encoder(self) -> bool:
        """Whether the prior comes from a network that has nothing to do with the model's cache."""
        prior = self.functions.get(PRIOR)
        if prior is None:
            return False
        used = {argument for call in prior.calls for argument in call.arguments}
        return not any(prior.tensors[argument].place == "cache" for argument in used)


def model_header(model: AheadModel) -> str:
    """`gem_model.h`: what an app needs to know while it is compiled."""
    config = model.config
    constants = {
        "VOCABULARY": config.vocabulary_size,
        "LAYERS": config.layers,
        "CONTEXT": config.context_length,
        "EXPERTS": model.experts(),
        "WEIGHTS": len(model.weights),
        "CACHES": 2 * config.layers,
        "BLOCK": KEY_BLOCK,
    }
    return _header("GEM_MODEL_H", "Constants of one model; see gem.h. Made by GEM.", constants)


def sizes_header(model: AheadModel) -> str:
    """`gem_sizes.h`: sizes of the tables, for the driver alone."""
    functions = model.functions.values()
    moved = [-(-n // ALIGNMENT) * ALIGNMENT for _, _, n in model.weight_table() if n % ALIGNMENT]
    constants = {
        "ROUTING": model.routing_layers(),
        "PRIOR": int(PRIOR in model.functions),
        "ENCODER": int(model.has_encoder()),
        "WEIGHT_ALIGNMENT": model.alignment,
        "MOVED_BYTES": max(ALIGNMENT, sum(moved)),
        "MOST_DIMENSIONS": max(1, *(len(t.shape) for f in functions for t in f.tensors)),
        "MOST_ARGUMENTS": max(len(c.arguments) for f in functions for c in f.calls),
        "MOST_EXPRESSIONS": 1 + max(len(_Sizes(model, name).texts) for name in model.functions),
        "MOST_SLOTS": max(len(memory.slots) for memory in model.memory.values()),
    }
    return _header("GEM_SIZES_H", "Sizes of the tables of one model. Made by GEM.", constants)


def _header(guard: str, comment: str, constants: Mapping[str, int]) -> str:
    lines = [f"#define GEM_{name} {value}" for name, value in constants.items()]
    return "\n".join(
        [f"/* {comment} */", f"#ifndef {guard}", f"#define {guard}", "", *lines, "", "#endif", ""]
    )


def tables(model: AheadModel) -> str:
    """`gem_tables.c`: kernel calls, tensors, sizes, constants and weights."""
    kernels = sorted({c.kernel for f in model.functions.values() for c in f.calls})
    parts = ["/* Made by GEM. */", '#include "gem_tables.h"', ""]
    parts += [
        f"int __tvm_ffi_{kernel}(void *, const gem_any *, int32_t, gem_any *);"
        for kernel in kernels
    ]
    for index, array in enumerate(model.constants):
        parts.append(_constant(index, array))
    pointers = [f"constant_{i}" for i in range(len(model.constants))] or ["0"]
    parts.append(_table("const void *const gem_constants[]", pointers))
    parts.append(_table("const gem_weight gem_weights[]", _weights(model)))
    for name in FUNCTIONS:
        if name in model.functions:
            parts.append(_function(model, name))
        else:
            parts.append(f"const gem_function *const gem_{name}_function = 0;")
    parts.append(
        "const gem_facts gem_these_facts = {GEM_INTERFACE, GEM_VOCABULARY, GEM_LAYERS, GEM_CONTEXT,\n"
        "  GEM_EXPERTS, GEM_ROUTING, GEM_PRIOR, GEM_WEIGHTS, GEM_CACHES, GEM_BLOCK};"
    )
    parts.append(_cache_size(model))
    return "\n".join([*parts, ""])


class _Sizes:
    """Expressions of one function's sizes, each once."""

    def __init__(self, model: AheadModel, name: str) -> None:
        self.texts: dict[str, int] = {}
        function = model.functions[name]
        self.shapes = [[self._index(size) for size in t.shape] for t in function.tensors]
        self.slots = [self._index(size) for size in model.memory[name].slots]
        self.scratch = self._index(model.scratch[name])

    def _index(self, extent: Extent) -> int:
        fixed = extent.constant
        if fixed is not None and 0 <= fixed < 2**31:
            return fixed
        return -1 - self.texts.setdefault(extent.c(), len(self.texts))


def _function(model: AheadModel, name: str) -> str:
    function, places = model.functions[name], model.memory[name].places
    sizes = _Sizes(model, name)
    tensors = []
    for tensor, shape in zip(function.tensors, sizes.shapes, strict=True):
        code, bits = _TYPES[tensor.dtype]
        # What nothing uses has no slot, and is never asked for.
        index = places.get(tensor.index, 0) if tensor.place == "work" else tensor.index
        dimensions = ", ".join(map(str, shape)) or "0"
        place = f"GEM_{tensor.place.upper()}"
        tensors.append(f"{{{place}, {code}, {bits}, {len(shape)}, {index}, {{{dimensions}}}}}")
    arguments: list[int] = []
    calls = []
    for call in function.calls:
        symbol = f'__tvm_ffi_{call.kernel}, "{call.kernel}"'
        calls.append(f"{{{symbol}, {len(arguments)}, {len(call.arguments)}}}")
        arguments += call.arguments
    expressions = [f"  e[{index}] = {text};" for text, index in sizes.texts.items()]
    slots = list(map(str, sizes.slots)) or ["0"]
    return "\n".join(
        [
            f"static void {name}_expressions(const int64_t *v, int64_t *e) {{",
            "  (void)v, (void)e;",
            *expressions,
            "}",
            _table(f"static const gem_tensor {name}_tensors[]", tensors),
            _table(f"static const uint16_t {name}_arguments[]", map(str, arguments)),
            _table(f"static const gem_call {name}_calls[]", calls),
            _table(f"static const gem_size {name}_slots[]", slots),
            f"static const gem_function {name}_function = {{{name}_expressions, {name}_tensors,",
            f"  {name}_arguments, {name}_calls, {len(calls)}, {name}_slots, {len(sizes.slots)},",
            f"  {sizes.scratch}}};",
            f"const gem_function *const gem_{name}_function = &{name}_function;",
        ]
    )


def _table(declaration: str, rows: Iterable[str]) -> str:
    return f"{declaration} = {{\n  " + ",\n  ".join(rows) + "};"


def _constant(index: int, array: npt.NDArray[Any]) -> str:
    data = np.ascontiguousarray(array).tobytes() or b"\0"
    values = ", ".join(map(str, data))
    return f"static _Alignas(GEM_ALIGNMENT) const uint8_t constant_{index}[] = {{{values}}};"


def _weights(model: AheadModel) -> Sequence[str]:
    return [
        f'{{"{name}", "\\"{_STORED[dtype]}\\"", {size}}}'
        for name, dtype, size in model.weight_table()
    ]


def _cache_size(model: AheadModel) -> str:
    item = np.dtype(cache_dtype(model.cache)).itemsize
    shapes = cache_shapes(model.config, KEY_BLOCK, model.cache)
    keys, values = (int(np.prod(shape)) * item for shape in shapes)
    return (
        "int64_t gem_cache_size(int32_t odd, int64_t positions) {\n"
        f"  return positions / GEM_BLOCK * (odd ? {values} : {keys});\n}}"
    )
