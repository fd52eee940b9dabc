"""What a traced decoder computes: its operations and their multiply-accumulates."""

from __future__ import annotations

from collections import Counter
from math import prod

import torch
from torch import fx

from gemcore.models.cache_layout import cache_shapes
from gemcore.models.config import ModelConfig
from gemcore.reports import DelegatedOperation
from gemcore.schemes import GROUP, get_scheme

CONTEXT = 256
"""Positions attended to when the work of attention is counted."""


def count_operations(
    program: torch.export.ExportedProgram, config: ModelConfig, unit: str
) -> tuple[DelegatedOperation, ...]:
    """Operations of a decoder that runs on one unit as a whole, with the work of one token.

    Attention is counted at a context of 256 positions; the output head once a token. Bytes are those of
    weights and cache that the kernels read for one token: what lies in the processor's caches is not
    counted, nor is the one row of the embedding that a token needs more than that row.
    """
    calls: Counter[str] = Counter()
    work: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target.name().split("::")[-1].split(".")[0]
        calls[name] += 1
        work[name] += _multiply_accumulates(node, name, config)
        moved[name] += _memory_bytes(node, name, config)
        floats[name] += _float_operations(node, name)
    return tuple(
        DelegatedOperation(
            operation=name,
            unit=unit,
            count=count,
            multiply_accumulates=work[name],
            memory_bytes=moved[name],
            float_operations=floats[name],
        )
        for name, count in sorted(calls.items(), key=lambda item: (-work[item[0]], item[0]))
    )


def _multiply_accumulates(node: fx.Node, name: str, config: ModelConfig) -> int:
    if name == "qlinear":
        return _last_size(node.args[0]) * _integer(node.args[5])
    if name == "linear_f16":
        return _last_size(node.args[0]) * _integer(node.args[2])
    if name in ("attention", "attention_q8"):
        return 2 * config.heads * config.head_dim * CONTEXT
    if name in ("routed_lora", "routed_lora_q8"):
        down, up = node.args[-2:]
        # One active expert.
        return _last_size(down) * (_size(down, 1) + _last_size(up))
    if name == "linear_f32":
        return _size(node.args[1], 0) * _size(node.args[1], 1)
    return 0


def _float_operations(node: fx.Node, name: str) -> int:
    """What a product of int8 costs in float32.

    For each group of activations and each output the sum is converted, the scales are multiplied, and both
    go into the total, as does the minimum where there is one.
    """
    if name != "qlinear":
        return 0
    scheme = node.args[4]
    assert isinstance(scheme, str)
    each = 4 if get_scheme(scheme).has_minimum else 3
    return each * (_last_size(node.args[0]) // GROUP) * _integer(node.args[5])


def _memory_bytes(node: fx.Node, name: str, config: ModelConfig) -> int:
    """Bytes of weights and cache that one call reads for one token; see `gemcore.runtime.traffic`."""
    if name == "qlinear":
        return _bytes(node.args[3])
    if name in ("linear_f16", "linear_f32"):
        return _bytes(node.args[1])
    if name == "embedding":
        packed = node.args[1]
        return _bytes(packed) // _size(packed, 0)
    if name in ("attention", "attention_q8"):
        scheme = "q8" if name.endswith("q8") else "f16"
        items = 1 if scheme == "q8" else 2
        return sum(items * prod(shape) for shape in cache_shapes(config, CONTEXT, scheme))
    if name in ("routed_lora", "routed_lora_q8"):
        down, up = node.args[-2:]
        # One active expert.
        return _bytes(down) // _size(down, 0) + _bytes(up) // _size(up, 0)
    return 0


def _bytes(node: object) -> int:
    assert isinstance(node, fx.Node)
    value = node.meta["val"]
    return int(value.numel() * value.element_size())


def _size(node: object, dimension: int) -> int:
    assert isinstance(node, fx.Node)
    return int(node.meta["val"].shape[dimension])


def _last_size(node: object) -> int:
    return _size(node, -1)


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value
