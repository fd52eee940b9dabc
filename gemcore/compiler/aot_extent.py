"""Sizes that depend on the lengths of a pass: sums of products, as C can compute them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from gemcore.errors import GemError

LENGTHS = ("tokens", "rows", "positions", "blocks")
"""What a pass's sizes are computed from; in C they are `v[0]` to `v[3]`."""

Monomial = tuple[str, ...]


@attrs.frozen
class Extent:
    """A number of elements or bytes: a sum of products of lengths, each with a factor.

    Attributes:
        terms: factor of each product; a product is the sorted C names of what it multiplies.
    """

    terms: tuple[tuple[Monomial, int], ...]

    @property
    def constant(self) -> int | None:
        """The number, where it depends on no length."""
        if not self.terms:
            return 0
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    def __add__(self, other: Extent) -> Extent:
        total = Counter(dict(self.terms))
        for monomial, factor in other.terms:
            total[monomial] += factor
        return _extent(total)

    def __mul__(self, other: Extent) -> Extent:
        total: Counter[Monomial] = Counter()
        for mine, a in self.terms:
            for theirs, b in other.terms:
                total[tuple(sorted(mine + theirs))] += a * b
        return _extent(total)

    def cover(self, other: Extent) -> Extent:
        """An extent that is never less than either; both must have no negative factors."""
        total = dict(self.terms)
        for monomial, factor in other.terms:
            total[monomial] = max(total.get(monomial, 0), factor)
        return _extent(total)

    def at(self, lengths: Mapping[str, int]) -> int:
        """The number for given values of what is multiplied, by its C name."""
        return sum(
            factor * math.prod(lengths[name] for name in monomial)
            for monomial, factor in self.terms
        )

    def c(self) -> str:
        """The number as a C expression over `v`."""
        parts = [
            " * ".join([*monomial, *([str(factor)] if factor != 1 or not monomial else [])])
            for monomial, factor in self.terms
        ]
        return " + ".join(parts) or "0"


def number(value: int) -> Extent:
    """An extent that depends on nothing."""
    return _extent({(): value})


def length(name: str) -> Extent:
    """One of `LENGTHS`."""
    return _extent({(f"v[{LENGTHS.index(name)}]",): 1})


def product(extents: Iterable[Extent]) -> Extent:
    """The product of all; 1 of none."""
    total = number(1)
    for extent in extents:
        total = total * extent
    return total


def cover(extents: Iterable[Extent]) -> Extent:
    """An extent that is never less than any of these; 0 of none."""
    total = number(0)
    for extent in extents:
        total = total.cover(extent)
    return total


def extent_of(expression: Any, known: Mapping[Any, Extent]) -> Extent:
    """A TVM integer expression over variables whose extents are `known`.

    Raises GemError for what is neither a sum nor a product of those: no model of ours has it.
    """
    if isinstance(expression, int):
        return number(expression)
    kind = type(expression).__name__
    if kind == "IntImm":
        return number(int(expression.value))
    if expression in known:
        return known[expression]
    if kind in ("Add", "Mul", "Sub"):
        a, b = extent_of(expression.a, known), extent_of(expression.b, known)
        if kind == "Sub":
            b = b * number(-1)
        return a * b if kind == "Mul" else a + b
    if kind == "Cast":
        return extent_of(expression.value, known)
    raise GemError(
        f"this model cannot be compiled ahead of time: a size in it is computed as {expression}, "
        "and only sums and products of its lengths are known"
    )


def _extent(terms: Mapping[Monomial, int]) -> Extent:
    return Extent(tuple(sorted((m, f) for m, f in terms.items() if f)))
