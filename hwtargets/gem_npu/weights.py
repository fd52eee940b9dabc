"""The weights of a bundle in the order that HVX reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gemcore.compiler.kernels.hvx import VECTOR
from gemcore.compiler.kernels.hvx_layout import arrange
from gemcore.errors import GemError
from gemcore.formats.safetensors_writer import write_safetensors
from gemcore.packing import Scheme, get_scheme
from gemcore.runtime.mapped_weights import map_weights

if TYPE_CHECKING:
    from gemcore.compiler.export import ExportedDecoder


def rearrange(path: Path, exported: ExportedDecoder) -> None:
    """Write the file of a model's weights anew, whole or not at all."""
    schemes = weight_schemes(exported)
    arrays = dict(zip(exported.weights, map_weights(path, exported.weights), strict=True))
    arranged = {
        name: arrange(array, schemes[name]) if name in schemes else array
        for name, array in arrays.items()
    }
    temporary = path.with_name(f".{path.name}")
    write_safetensors(temporary, arranged, VECTOR)
    temporary.replace(path)


def weight_schemes(exported: ExportedDecoder) -> dict[str, Scheme]:
    """The scheme of each packed weight, from the operations that read it.

    Raises GemError where two read one weight by different schemes.
    """
    found: dict[str, Scheme] = {}
    programs = (exported.program, exported.prior, exported.routes)
    for program in (p for p in programs if p is not None):
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        # Weights are the last inputs, in their order.
        names = dict(zip(inputs[-len(exported.weights) :], exported.weights, strict=True))
        for node in program.graph.nodes:
            if not isinstance(node.target, torch._ops.OpOverload):
                continue
            place = _PACKED.get(node.target.name())
            if place is None:
                continue
            name, scheme = names[node.args[place[0]]], get_scheme(node.args[place[1]])
            if found.setdefault(name, scheme) != scheme:
                raise GemError(
                    f"weight '{name}' is read as {found[name].name} and as {scheme.name}: "
                    "give both uses the same scheme"
                )
    return found


_PACKED = {"gem::qlinear": (3, 4), "gem::embedding": (1, 2)}
"""Where operations have a packed weight and its scheme."""
