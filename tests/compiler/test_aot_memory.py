"""Sizes that depend on lengths, and slots that tensors share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx

from gemcore.compiler.aot_extent import LENGTHS, cover, extent_of, length, number, product
from gemcore.compiler.aot_graph import AheadFunction, AheadTensor, KernelCall
from gemcore.compiler.aot_memory import plan_memory
from gemcore.errors import GemError

values = st.fixed_dictionaries({f"v[{i}]": st.integers(0, 50) for i in range(len(LENGTHS))})
extents = st.recursive(
    st.integers(0, 9).map(number) | st.sampled_from(LENGTHS).map(length),
    lambda inner: st.tuples(st.sampled_from("+*"), inner, inner).map(
        lambda parts: parts[1] + parts[2] if parts[0] == "+" else parts[1] * parts[2]
    ),
    max_leaves=6,
)


@given(extents, extents, values)
def test_arithmetic_is_that_of_numbers(a, b, lengths):
    assert (a + b).at(lengths) == a.at(lengths) + b.at(lengths)
    assert (a * b).at(lengths) == a.at(lengths) * b.at(lengths)
    assert cover([a, b]).at(lengths) >= max(a.at(lengths), b.at(lengths))
    assert product([a, b, number(2)]).at(lengths) == 2 * a.at(lengths) * b.at(lengths)


@given(extents, values)
def test_c_computes_the_same(extent, lengths):
    v = [lengths[f"v[{i}]"] for i in range(len(LENGTHS))]
    assert eval(extent.c(), {"__builtins__": {}}, {"v": v}) == extent.at(lengths)
    assert extent.constant is None or extent.constant == extent.at(lengths)


def test_tvm_expressions_are_read():
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    known = {n: length("tokens"), m: length("blocks")}
    at = {"v[0]": 7, "v[1]": 0, "v[2]": 0, "v[3]": 5}
    assert extent_of((n + 2) * 16 * m - n, known).at(at) == (7 + 2) * 16 * 5 - 7
    assert extent_of(tirx.Cast("int32", n), known).at(at) == 7
    with pytest.raises(
        GemError, match="^this model cannot be compiled ahead of time: a size in it is"
    ):
        extent_of(tirx.floordiv(n, m), known)


def chain(reads: list[list[int]]) -> AheadFunction:
    """Call i writes tensor i, and reads those that `reads[i]` names."""
    sizes = [length("tokens") * number(8 + i % 3) for i in range(len(reads))]
    tensors = [AheadTensor("work", i, "float32", (size,)) for i, size in enumerate(sizes)]
    calls = [KernelCall("k", (*sorted(set(r)), i)) for i, r in enumerate(reads)]
    return AheadFunction(
        name="forward", inputs=(), tensors=tuple(tensors), calls=tuple(calls), result=0
    )


@given(
    st.integers(1, 25).flatmap(
        lambda n: st.tuples(
            *[st.lists(st.integers(0, i - 1), max_size=3) if i else st.just([]) for i in range(n)]
        )
    )
)
def test_no_two_tensors_that_are_needed_at_a_time_share_a_slot(reads):
    function = chain(list(reads))
    memory = plan_memory(function)
    last = {i: max([i, *(j for j, r in enumerate(reads) if i in r)]) for i in range(len(reads))}
    for i in range(len(reads)):
        slot = memory.slots[memory.places[i]]
        own = function.tensors[i].bytes()
        assert slot.cover(own) == slot
        for other in range(i + 1, len(reads)):
            if last[i] >= other:
                assert memory.places[i] != memory.places[other]


def test_a_chain_needs_two_slots():
    memory = plan_memory(chain([[], *[[i] for i in range(9)]]))
    assert len(memory.slots) == 2
