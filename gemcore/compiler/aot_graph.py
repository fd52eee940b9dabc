"""From a Relax function to a plain list of kernel calls: what is compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt
from tvm import relax

from gemcore.compiler.aot_extent import Extent, extent_of, length, number, product
from gemcore.errors import GemError

Place = Literal["input", "cache", "weight", "constant", "work", "result"]
"""Where a tensor lies; the order of the driver's own enumeration."""

INPUT_LENGTHS = {"tokens": "tokens", "placement": "tokens", "rows": "rows", "priors": "tokens"}
"""Which length each call input begins with."""


@attrs.frozen
class AheadTensor:
    """A tensor that a kernel is called with.

    Attributes:
        place, index: where it lies: the how-manieth input, cache tensor, weight, constant or work.
        dtype: NumPy's name.
        shape: its extents.
    """

    place: Place
    index: int
    dtype: str
    shape: tuple[Extent, ...]

    def bytes(self) -> Extent:
        """Its size."""
        return product([*self.shape]) * _item(self.dtype)


@attrs.frozen
class KernelCall:
    """A call of one kernel with tensors, by their index; what it writes comes last."""

    kernel: str
    arguments: tuple[int, ...]


@attrs.frozen(kw_only=True)
class AheadFunction:
    """One function of the model.

    Attributes:
        name: as in `gemcore.runtime.executor`.
        inputs: names of its call inputs, keys of `INPUT_LENGTHS`.
        tensors: whatever its calls take.
        calls: in order.
        result: index of the tensor that it gives.
    """

    name: str
    inputs: tuple[str, ...]
    tensors: tuple[AheadTensor, ...]
    calls: tuple[KernelCall, ...]
    result: int


def read_function(
    function: relax.Function,
    name: str,
    inputs: Sequence[str],
    caches: int,
    constants: list[npt.NDArray[Any]],
) -> AheadFunction:
    """Read a function whose allocations are explicit and whose calls write to what they are given.

    Args:
        function: after `CallTIRRewrite`.
        name: its name.
        inputs: names of its call inputs.
        caches: how many tensors of caches come before the weights.
        constants: of the whole model; this function's are added.

    Raises:
        GemError: when it does something that only TVM's virtual machine could do.
    """
    reader = _Reader(caches=caches, constants=constants)
    reader.bind_inputs(function.params, inputs)
    for binding in _bindings(function.body):
        reader.read(binding)
    result = reader.value(function.body.body)
    if not isinstance(result, int) or reader.tensors[result].place != "work":
        raise _unknown(f"its function {name} returns what it did not compute")
    place = reader.tensors[result].index
    tensors = [
        attrs.evolve(t, place="result", index=0) if (t.place, t.index) == ("work", place) else t
        for t in reader.tensors
    ]
    return AheadFunction(
        name=name,
        inputs=tuple(inputs),
        tensors=tuple(tensors),
        calls=tuple(reader.calls),
        result=result,
    )


@attrs.define
class _Reader:
    """Follows the bindings of one function."""

    caches: int
    constants: list[npt.NDArray[Any]]
    tensors: list[AheadTensor] = attrs.Factory(list)
    calls: list[KernelCall] = attrs.Factory(list)
    lengths: dict[Any, Extent] = attrs.Factory(dict)
    _values: dict[Any, Any] = attrs.Factory(dict)
    _works: int = 0

    def bind_inputs(self, parameters: Sequence[Any], inputs: Sequence[str]) -> None:
        *given, shared = parameters
        if len(given) != len(inputs):
            raise _unknown(f"it has {len(given)} inputs, not {len(inputs)}")
        for index, (parameter, name) in enumerate(zip(given, inputs, strict=True)):
            self._learn(parameter.ty.shape[0], length(INPUT_LENGTHS[name]))
            self._values[parameter] = self._add("input", index, parameter.ty)
        fields = list(shared.ty.fields)
        for field in fields[: self.caches]:
            # Values of float16 lie position by position; everything else in blocks.
            by_position = len(field.shape) == 3 and field.dtype == "float16"
            self._learn(field.shape[1], length("positions" if by_position else "blocks"))
        self._values[shared] = tuple(
            self._add("cache", i, field)
            if i < self.caches
            else self._add("weight", i - self.caches, field)
            for i, field in enumerate(fields)
        )

    def _learn(self, variable: Any, extent: Extent) -> None:
        if type(variable).__name__ != "IntImm":
            self.lengths.setdefault(variable, extent)

    def _add(self, place: Place, index: int, kind: Any) -> int:
        shape = tuple(extent_of(size, self.lengths) for size in kind.shape)
        self.tensors.append(AheadTensor(place, index, str(kind.dtype), shape))
        return len(self.tensors) - 1

    def read(self, binding: Any) -> None:
        value = binding.value
        if isinstance(value, relax.Call) and isinstance(value.op, relax.GlobalVar):
            arguments = tuple(self.value(argument) for argument in value.args)
            if not all(isinstance(argument, int) for argument in arguments):
                raise _unknown(f"{value.op.name_hint} takes more than tensors")
            self.calls.append(KernelCall(value.op.name_hint, arguments))
            return
        self._values[binding.var] = self.value(value)

    def value(self, expression: Any) -> Any:
        """Index of a tensor, or a tuple of what its fields are."""
        kind = type(expression).__name__
        if kind in ("Var", "DataflowVar"):
            return self._values[expression]
        if kind == "Tuple":
            return tuple(self.value(field) for field in expression.fields)
        if kind == "TupleGetItem":
            return self.value(expression.tuple_value)[expression.index]
        if kind in ("Constant", "GenericConst"):
            return self._constant(expression)
        operation = getattr(getattr(expression, "op", None), "name", kind)
        if operation == "relax.builtin.alloc_tensor":
            self._works += 1
            return self._add("work", self._works - 1, expression.ty)
        if operation == "relax.reshape":
            viewed = self.tensors[self.value(expression.args[0])]
            return self._add(viewed.place, viewed.index, expression.ty)
        raise _unknown(f"it uses {operation}")

    def _constant(self, expression: Any) -> int:
        data = getattr(expression, "data", None)
        array = np.ascontiguousarray((expression.value if data is None else data).numpy())
        self.constants.append(array)
        return self._add("constant", len(self.constants) - 1, expression.ty)


def _bindings(body: Any) -> Iterator[Any]:
    for block in body.blocks:
        yield from block.bindings


def _item(dtype: str) -> Extent:
    return number(np.dtype(dtype).itemsize)


def _unknown(what: str) -> GemError:
    return GemError(
        f"this model cannot be compiled ahead of time: {what}; compile it for target host instead"
    )


def used_kernels(functions: Mapping[str, AheadFunction]) -> list[str]:
    """Names of all kernels that are called, sorted."""
    return sorted({call.kernel for function in functions.values() for call in function.calls})
