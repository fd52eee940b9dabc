"""What one call of a kernel moves: bytes and multiply-accumulates, from its real arguments.

Every byte is counted once a call, as if caches were perfect: it is what the call must move, and a kernel
that reads something twice is shown as slower, never as having done more. A packed weight is read whole;
of an embedding, the tiles of 16 rows in which the wanted rows lie; of a cache, only the part that is
visible to the pass; of routed experts, those that some token has chosen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.models.cache_layout import KEY_BLOCK, PLACEMENT_FIELDS
from gemcore.schemes import TILE

_SLOT, _PREFIX_START, _PREFIX_END, _START = range(1, PLACEMENT_FIELDS)


@attrs.frozen(eq=False)
class Argument:
    """One array that a kernel is called with.

    Attributes:
        array: the array itself; read while the kernel has not run yet.
        weight, cache: whether it is a weight or a part of the KV cache; an activation is neither.
    """

    array: npt.NDArray[Any]
    weight: bool = False
    cache: bool = False


@attrs.frozen(kw_only=True)
class Traffic:
    """What is moved and computed.

    Attributes:
        read, written: bytes, of everything.
        memory: bytes of weights and caches among them: activations stay in the processor's caches.
        multiply_accumulates: of a matrix product; 0 for everything else.
    """

    read: float = 0
    written: float = 0
    memory: float = 0
    multiply_accumulates: float = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            read=self.read + other.read,
            written=self.written + other.written,
            memory=self.memory + other.memory,
            multiply_accumulates=self.multiply_accumulates + other.multiply_accumulates,
        )

    def __truediv__(self, count: float) -> Traffic:
        return Traffic(
            read=self.read / count,
            written=self.written / count,
            memory=self.memory / count,
            multiply_accumulates=self.multiply_accumulates / count,
        )


def kernel_traffic(name: str, arguments: Sequence[Argument]) -> Traffic:
    """The traffic of kernel `name`; of one that is not known, all inputs whole and one output."""
    operation = re.sub(r"(_\d+)+$", "", name)
    return _RULES.get(operation, _elementwise)(arguments)


def _moved(
    arguments: Sequence[Argument],
    *,
    outputs: int = 1,
    parts: Mapping[int, float] | None = None,
    written: Mapping[int, float] | None = None,
    multiply_accumulates: float = 0,
) -> Traffic:
    """Traffic of a kernel whose last `outputs` arguments are written whole.

    `parts` has the bytes read of those inputs that are not read whole, and `written` the bytes written to
    inputs in place, by position.
    """
    first_output = len(arguments) - outputs
    in_place = written or {}
    read = {
        i: (parts or {}).get(i, 0 if i in in_place else argument.array.nbytes)
        for i, argument in enumerate(arguments[:first_output])
    }
    stored = {i: arguments[i].array.nbytes for i in range(first_output, len(arguments))} | dict(
        in_place
    )
    return Traffic(
        read=sum(read.values()),
        written=sum(stored.values()),
        memory=sum(
            count
            for counts in (read, stored)
            for i, count in counts.items()
            if arguments[i].weight or arguments[i].cache
        ),
        multiply_accumulates=multiply_accumulates,
    )


def _elementwise(arguments: Sequence[Argument]) -> Traffic:
    return _moved(arguments, outputs=min(1, len(arguments)))


def _quantize(arguments: Sequence[Argument]) -> Traffic:
    """Values, scales and sums are written."""
    return _moved(arguments, outputs=3)


def _product(arguments: Sequence[Argument]) -> Traffic:
    """Activations `[tokens, in]` come first, and `[tokens, out]` last."""
    x, y = arguments[0].array, arguments[-1].array
    return _moved(arguments, multiply_accumulates=x.shape[0] * x.shape[1] * y.shape[1])


def _gate_up(arguments: Sequence[Argument]) -> Traffic:
    """A product with twice as many outputs as are written, rounded: values, scales and sums."""
    x, y = arguments[0].array, arguments[-3].array
    work = x.shape[0] * x.shape[1] * 2 * y.shape[1]
    return _moved(arguments, outputs=3, multiply_accumulates=work)


def _take(arguments: Sequence[Argument]) -> Traffic:
    return _moved(arguments, parts={0: arguments[-1].array.nbytes})


def _embedding(arguments: Sequence[Argument]) -> Traffic:
    ids, packed = arguments[0].array, arguments[1].array
    tiles = len(np.unique(ids // TILE))
    return _moved(arguments, parts={1: packed.nbytes / len(packed) * tiles})


def _rope_append(arguments: Sequence[Argument]) -> Traffic:
    rotation, placement = arguments[1].array, arguments[2].array
    positions = len(np.unique(placement[:, 0]))
    caches = [i for i, argument in enumerate(arguments) if argument.cache]
    capacity = _capacity(arguments)
    return _moved(
        arguments,
        parts={1: rotation.nbytes / len(rotation) * positions},
        written={i: arguments[i].array.nbytes / capacity * len(placement) for i in caches},
    )


def _attention(arguments: Sequence[Argument]) -> Traffic:
    placement = next(
        argument.array
        for argument in arguments
        if argument.array.dtype == np.int32 and argument.array.shape[1:] == (PLACEMENT_FIELDS,)
    )
    capacity = _capacity(arguments)
    slots = _visible_slots(placement, capacity)
    parts = {}
    for i, argument in enumerate(arguments):
        if argument.cache:
            # Keys lie in blocks of positions, each of which is read whole.
            count = argument.array.shape[1]
            seen = len(np.unique(slots // (capacity // count)))
            parts[i] = argument.array.nbytes / count * seen
    return _moved(arguments, parts=parts)


def _routed_lora(arguments: Sequence[Argument]) -> Traffic:
    """Activations, then the rows that are added to, the routing weights, and the two parts of the deltas."""
    y, weights, down, up = range(len(arguments) - 4, len(arguments))
    works = arguments[weights].array != 0
    share = works.any(axis=0).mean()
    rows = arguments[y].array.nbytes * float(works.any(axis=1).mean())
    parts = {i: arguments[i].array.nbytes * float(share) for i in (down, up)}
    work = arguments[down].array[0].size + arguments[up].array[0].size
    return _moved(
        arguments,
        outputs=0,
        parts={**parts, y: rows},
        written={y: rows},
        multiply_accumulates=float(works.sum()) * work,
    )


def _capacity(arguments: Sequence[Argument]) -> int:
    """Positions that the caches among the arguments hold; the second axis counts them, or blocks."""
    cache = [argument.array for argument in arguments if argument.cache]
    # All arrays of a q8 cache count blocks of positions.
    each = KEY_BLOCK if cache[0].dtype == np.uint8 else 1
    return each * max(int(array.shape[1]) for array in cache)


def _visible_slots(placement: npt.NDArray[np.int32], capacity: int) -> npt.NDArray[np.intp]:
    """Slots that some token of the pass sees, ascending."""
    seen = np.zeros(capacity, bool)
    for row in placement:
        seen[row[_PREFIX_START] : row[_PREFIX_END]] = True
        seen[row[_START] : row[_SLOT] + 1] = True
    return np.flatnonzero(seen)


_RULES: Mapping[str, Callable[[Sequence[Argument]], Traffic]] = MappingProxyType(
    {
        "quantize": _quantize,
        "rms_norm_quantize": _quantize,
        "silu_mul_quantize": _quantize,
        "gate_up_quantize": _gate_up,
        "qlinear": _product,
        "linear_f16": _product,
        "embedding": _embedding,
        "take": _take,
        "rope_append": _rope_append,
        "rope_append_q8": _rope_append,
        "attention": _attention,
        "attention_q8": _attention,
        "routed_lora": _routed_lora,
        "routed_lora_q8": _routed_lora,
    }
)
