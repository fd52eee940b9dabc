"""Where intermediate tensors lie: few slots that later tensors use again, and the kernels' scratch memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from gemcore.compiler.aot_extent import Extent, cover, extent_of, number, product
from gemcore.compiler.aot_graph import AheadFunction

TYPICAL: Mapping[str, int] = {"v[0]": 32, "v[1]": 1, "v[2]": 1024, "v[3]": 64}  # lengths of a pass
"""By which one slot is preferred to another; any choice is right."""

STACK_BYTES = 1024
"""TVM puts what is smaller than this on the stack."""

ALIGNMENT = 128
"""Bytes: where every tensor begins. A vector of Hexagon; a cache line or two of anything else."""


@attrs.frozen
class Memory:
    """Slots of one function.

    Attributes:
        slots: bytes of each.
        places: slot of each intermediate tensor, by its index.
    """

    slots: tuple[Extent, ...]
    places: dict[int, int]


def plan_memory(function: AheadFunction) -> Memory:
    """Give every intermediate tensor a slot that nothing else uses while it is needed."""
    first, last = _uses(function)
    sizes: dict[int, Extent] = {}
    for tensor in function.tensors:
        if tensor.place == "work":
            sizes[tensor.index] = sizes.get(tensor.index, number(0)).cover(tensor.bytes())
    slots: list[Extent] = []
    places: dict[int, int] = {}
    free: set[int] = set()
    for i in range(len(function.calls)):
        for work in sorted(w for w, at in first.items() if at == i):
            places[work] = _choose(slots, free, sizes[work])
        free |= {places[work] for work, at in last.items() if at == i}
    return Memory(tuple(slots), places)


def _uses(function: AheadFunction) -> tuple[dict[int, int], dict[int, int]]:
    """First and last call that touches each intermediate tensor."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, call in enumerate(function.calls):
        for argument in call.arguments:
            tensor = function.tensors[argument]
            if tensor.place == "work":
                first.setdefault(tensor.index, i)
                last[tensor.index] = i
    return first, last


def _choose(slots: list[Extent], free: set[int], size: Extent) -> int:
    """Take the free slot that has to grow least, or a new one."""

    def cost(slot: int) -> tuple[int, int]:
        here, grown = slots[slot].at(TYPICAL), slots[slot].cover(size).at(TYPICAL)
        return grown - here, here

    chosen = min(free, key=cost, default=None)
    if chosen is None:
        slots.append(size)
        return len(slots) - 1
    free.remove(chosen)
    slots[chosen] = slots[chosen].cover(size)
    return chosen


def plan_scratch(function: AheadFunction, kernels: Mapping[str, Any]) -> Extent:
    """The most bytes that a kernel of `function` allocates for itself at a time, on one thread.

    Computed from the kernels' own code: TVM functions by name.
    """
    found: list[Extent] = []
    for kernel, arguments in dict.fromkeys((c.kernel, c.arguments) for c in function.calls):
        known: dict[Any, Extent] = {}
        for parameter, argument in zip(kernels[kernel].params, arguments, strict=True):
            shape = function.tensors[argument].shape
            for own, extent in zip(parameter.ty.shape, shape, strict=True):
                if type(own).__name__ != "IntImm":
                    known.setdefault(own, extent)
        found.append(_held(kernels[kernel].body, known))
    return cover(found)


def _held(statement: Any, known: Mapping[Any, Extent]) -> Extent:
    """Bytes that a statement, and what is in it, holds at most at a time."""
    own = number(0)
    if type(statement).__name__ == "AllocBuffer":
        own = _buffer_bytes(statement.buffer, known)
    for buffer in getattr(statement, "alloc_buffers", ()):
        own = own + _buffer_bytes(buffer, known)
    inner = [number(0)]
    for name in ("body", "block", "init", "then_case", "else_case"):
        child = getattr(statement, name, None)
        if child is not None:
            inner.append(_held(child, known))
    before = number(0)
    for child in getattr(statement, "seq", ()):
        # What a statement of a sequence allocates stays until the sequence ends.
        held = _held(child, known)
        inner.append(before + held)
        if type(child).__name__ == "AllocBuffer":
            before = before + held
    return own + cover(inner)


def _buffer_bytes(buffer: Any, known: Mapping[Any, Extent]) -> Extent:
    kind = getattr(buffer, "ty", buffer)
    item = np.dtype(str(kind.dtype)).itemsize
    size = product(extent_of(size, known) for size in kind.shape) * number(item)
    if size.constant is not None and size.constant < STACK_BYTES:
        return number(0)
    return size + number(ALIGNMENT)
