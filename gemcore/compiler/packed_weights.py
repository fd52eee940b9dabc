"""Which weights of a traced model are packed, and how, by the operations that read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs
import torch

from gemcore.errors import GemError
from gemcore.schemes import Scheme, get_scheme

if TYPE_CHECKING:
    from gemcore.compiler.export import ExportedDecoder


@attrs.frozen(kw_only=True)
class PackedWeight:
    """How a weight is stored.

    Attributes:
        scheme: its packing scheme.
        outputs: its rows, where a product reads it; 0 where only an embedding does.
    """

    scheme: Scheme
    outputs: int = 0


def packed_weights(exported: ExportedDecoder) -> dict[str, PackedWeight]:
    """Name of each packed weight to how it is stored.

    Raises GemError where two operations read one weight by different schemes.
    """
    found: dict[str, PackedWeight] = {}
    programs = (exported.program, exported.prior, exported.routes)
    for program in (p for p in programs if p is not None):
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        # Weights are the last inputs, in their order.
        names = dict(zip(inputs[-len(exported.weights) :], exported.weights, strict=True))
        for node, weight in _reads(program.graph):
            name = names[node]
            known = found.get(name, weight)
            if known.scheme != weight.scheme:
                raise GemError(
                    f"weight '{name}' is read as {known.scheme.name} and as {weight.scheme.name}: "
                    "give both uses the same scheme"
                )
            found[name] = attrs.evolve(known, outputs=max(known.outputs, weight.outputs))
    return found


def _reads(graph: torch.fx.Graph) -> Iterator[tuple[Any, PackedWeight]]:
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        name, given = node.target.name(), node.args
        if name == "gem::qlinear":
            yield given[3], PackedWeight(scheme=get_scheme(given[4]), outputs=given[5])
        elif name == "gem::linear_f16":
            yield given[1], PackedWeight(scheme=get_scheme("f16"), outputs=given[2])
        elif name == "gem::embedding":
            yield given[1], PackedWeight(scheme=get_scheme(given[2]))
