"""From the traced decoder to Relax: each `gem::` operation becomes a call of its kernel.

Neighbours are joined on the way, which changes no bit: a norm or SwiGLU into the rounding that follows
it, a product into the residual addition that follows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from itertools import chain, count
from typing import Any

import attrs
import torch
import tvm
from torch import fx
from tvm import relax, topi
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter
from tvm_ffi import structural_equal

from gemcore.compiler.export import PRIOR_INPUTS, ROUTES_INPUTS, ExportedDecoder
from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels import (
    activations,
    attention,
    attention_q8,
    dense,
    embedding,
    experts,
    feed_forward,
    linear,
)
from gemcore.compiler.kernels.vector import LANES
from gemcore.errors import GemError
from gemcore.models.config import ModelConfig
from gemcore.runtime.executor import FORWARD, PRIOR, ROUTES
from gemcore.schemes import GROUP, TILE, get_scheme

Converter = Callable[[fx.Node, Any], Any]


def lower(exported: ExportedDecoder, config: ModelConfig, isa: InstructionSet) -> tvm.IRModule:
    """Relax module with the function `forward(tokens, placement, rows[, prior], (caches, weights))`.

    A model with a router has another one, `routes(tokens, placement, priors, (caches, weights))`, and one
    whose first layers or whose encoder give the prior has `prior(tokens, placement, (caches, weights))`, all
    with the very same caches and weights.

    Raises GemError when the router uses a torch operation that TVM's importer does not know, and for
    a model whose sizes the kernels cannot cut into vectors.
    """
    _check_sizes(config)
    module = _lower(exported.program, exported.call_inputs, FORWARD, config, isa)
    if exported.prior is not None:
        prior = _lower(exported.prior, len(PRIOR_INPUTS), PRIOR, config, isa)
        module.update(_sharing(prior, module))
    if exported.routes is not None:
        routes = _lower(exported.routes, len(ROUTES_INPUTS), ROUTES, config, isa)
        module.update(_sharing(routes, module))
    return module


def _lower(
    traced: torch.export.ExportedProgram,
    call_inputs: int,
    name: str,
    config: ModelConfig,
    isa: InstructionSet,
) -> tvm.IRModule:
    """Relax module with one function, called `name`: call inputs, then everything else as a tuple."""
    lowering = _Lowering(config=config, isa=isa)
    # Not through from_exported_program: it decomposes, then copies parameters; ours are inputs.
    with warnings.catch_warnings():
        # torch.export copies its own deprecated tree specifications.
        warnings.simplefilter("ignore", FutureWarning)
        program = traced.run_decompositions()
    try:
        module = ExportedProgramImporter().from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=True,
            no_bind_return_tuple=False,
            custom_convert_map=lowering.converters(),
        )
    except (KeyError, ValueError, AssertionError) as error:
        raise GemError(f"TVM cannot import this model: {error}") from error
    main = module["main"].with_attr("num_input", call_inputs)
    module.update_func(module.get_global_var("main"), main)
    module = relax.transform.BundleModelParams()(module)
    return _renamed(module, name)


def _check_sizes(config: ModelConfig) -> None:
    for name, multiple in (("hidden_size", LANES), ("intermediate_size", LANES), ("head_dim", 4)):
        size = getattr(config, name)
        if size % multiple:
            raise GemError(
                f"this model cannot be compiled: its {name} is {size}, and the kernels need a "
                f"multiple of {multiple}"
            )


def _renamed(module: tvm.IRModule, name: str) -> tvm.IRModule:
    function = module["main"].with_attr("global_symbol", name)
    del module["main"]
    module[name] = function
    return module


def _sharing(module: tvm.IRModule, other: tvm.IRModule) -> tvm.IRModule:
    """`module` with calls of `other`'s kernels wherever the two have the same."""
    taken = {variable.name_hint: variable for variable in other.get_global_vars()}
    replaced, own = {}, {}
    for variable, function in module.functions.items():
        name = variable.name_hint
        if isinstance(function, relax.Function):
            continue
        if name in taken and structural_equal(other[taken[name]], function):
            replaced[name] = taken[name]
            continue
        names = chain([name], (f"{name}_{i}" for i in count(1)))
        fresh = next(candidate for candidate in names if candidate not in taken)
        kernel = variable
        if fresh != name:
            kernel = relax.GlobalVar(fresh)
            relax.expr._update_type(kernel, variable.ty)
        replaced[name] = taken[fresh] = kernel
        own[kernel] = function
    callers = {
        variable: _Replacing(replaced).visit_expr(function)
        for variable, function in module.functions.items()
        if isinstance(function, relax.Function)
    }
    return tvm.IRModule({**own, **callers})


@mutator
class _Replacing(PyExprMutator):
    """Puts other functions in the place of those of certain names."""

    def __init__(self, replaced: dict[str, Any]) -> None:
        super().__init__()
        self.replaced = replaced

    def visit_global_var_(self, variable: Any) -> Any:
        return self.replaced.get(variable.name_hint, variable)


@attrs.define
class _Lowering:
    """Converters of one model; kernels of equal shape are made once."""

    config: ModelConfig
    isa: InstructionSet
    _kernels: dict[tuple[Any, ...], Any] = attrs.Factory(dict)

    def converters(self) -> dict[str, Converter]:
        """Torch operation name to converter, as TVM's importer wants it."""
        ours: dict[str, Converter] = {
            "rms_norm": self._rms_norm,
            "silu_mul": self._silu_mul,
            "quantize": self._quantize,
            "qlinear": self._qlinear,
            "linear_f16": self._linear_f16,
            "embedding": self._embedding,
            "attention": partial(self._attention, attention.attention),
            "attention_q8": partial(self._attention, attention_q8.attention_q8),
            "routed_lora": partial(self._routed_lora, experts.routed_lora),
            "routed_lora_q8": partial(self._routed_lora, experts.routed_lora_q8),
            "linear_f32": self._linear_f32,
        }
        table = {f"{name}.default": _only_ours(f"{name}.default", c) for name, c in ours.items()}
        table["auto_functionalized_v2"] = self._rope_append
        table["add.Tensor"] = self._add
        table["index_select.default"] = _index_select
        return table

    def _call(
        self,
        importer: Any,
        make: Callable[..., Any],
        key: tuple[Any, ...],
        arguments: list[Any],
        out: Any,
    ) -> Any:
        builder = importer.block_builder
        return builder.emit(relax.call_tir(self._kernel(importer, make, key), arguments, out))

    def _kernel(self, importer: Any, make: Callable[..., Any], key: tuple[Any, ...]) -> Any:
        name = make.__name__
        residual = {"residual": True} if key and key[-1] == "residual" else {}
        positional = key[:-1] if residual else key
        if (name, *key) not in self._kernels:
            kernel = make(self.isa, *positional, **residual).without_attr("global_symbol")
            label = "_".join([name, *(str(part) for part in key if isinstance(part, int))])
            self._kernels[name, *key] = importer.block_builder.add_func(kernel, label)
        return self._kernels[name, *key]

    def _rms_norm(self, node: fx.Node, importer: Any) -> Any:
        if _joins_quantize(node):
            return None
        x, gain, epsilon = importer.retrieve_args(node)
        columns = _columns(x)
        key = (columns, epsilon)
        return self._call(importer, activations.rms_norm, key, [x, gain], _like(x, columns))

    def _silu_mul(self, node: fx.Node, importer: Any) -> Any:
        if _joins_quantize(node):
            return None
        (x,) = importer.retrieve_args(node)
        columns = _columns(x) // 2
        return self._call(importer, activations.silu_mul, (columns,), [x], _like(x, columns))

    def _quantize(self, node: fx.Node, importer: Any) -> Any:
        source = node.args[0]
        make: Callable[..., Any]
        key: tuple[Any, ...]
        if _is(source, "rms_norm") and _joins_quantize(source):
            x, gain, epsilon = importer.retrieve_args(source)
            columns = _columns(x)
            make, key, arguments = activations.rms_norm_quantize, (columns, epsilon), [x, gain]
        elif _is(source, "silu_mul") and _joins_quantize(source):
            if self._joins_feed_forward(source.args[0]):
                return self._gate_up_quantize(source.args[0], importer)
            (x,) = importer.retrieve_args(source)
            columns = _columns(x) // 2
            make, key, arguments = activations.silu_mul_quantize, (columns,), [x]
        else:
            (x,) = importer.retrieve_args(node)
            columns = _columns(x)
            make, key, arguments = activations.quantize, (columns,), [x]
        return self._call(importer, make, key, arguments, _quantized(x, columns))

    def _gate_up_quantize(self, product: fx.Node, importer: Any) -> Any:
        values, scales, sums, packed, scheme, outputs = importer.retrieve_args(product)
        inner = outputs // 2
        key = (get_scheme(scheme), _columns(values), inner)
        arguments = [values, scales, sums, packed]
        out = _quantized(scales, inner)
        return self._call(importer, feed_forward.gate_up_quantize, key, arguments, out)

    def _qlinear(self, node: fx.Node, importer: Any) -> Any:
        if _residual_addition(node) is not None or self._joins_feed_forward(node):
            return None
        return self._product(node, importer, [])

    def _joins_feed_forward(self, node: Any) -> bool:
        return self.isa.vector_floats and _joins_feed_forward(node)

    def _product(self, node: fx.Node, importer: Any, residual: list[Any]) -> Any:
        values, scales, sums, packed, scheme, outputs = importer.retrieve_args(node)
        key = (get_scheme(scheme), _columns(values), outputs, *(["residual"] if residual else []))
        arguments = [values, scales, sums, packed, *residual]
        return self._call(importer, linear.qlinear, key, arguments, _like(scales, outputs))

    def _add(self, node: fx.Node, importer: Any) -> Any:
        for own, other in (node.args, reversed(node.args)):
            if _is(own, "qlinear") and _residual_addition(own) is node:
                return self._product(own, importer, [importer.env[other]])
        return _builtin(importer, "add.Tensor")(node)

    def _linear_f16(self, node: fx.Node, importer: Any) -> Any:
        x, packed, outputs = importer.retrieve_args(node)
        key = (_columns(x), outputs)
        return self._call(importer, linear.linear_f16, key, [x, packed], _like(x, outputs))

    def _embedding(self, node: fx.Node, importer: Any) -> Any:
        ids, packed, scheme, hidden = importer.retrieve_args(node)
        key = (get_scheme(scheme), self._rows(packed), hidden)
        out = relax.TensorType((ids.ty.shape[0], hidden), "float32")
        return self._call(importer, embedding.embedding, key, [ids, packed], out)

    def _rows(self, packed: Any) -> int:
        """Rows of an embedding: the model's, or those of an encoder of another size, filled up."""
        tiles, rows = int(packed.ty.shape[0]), self.config.vocabulary_size
        return rows if -(-rows // TILE) == tiles else tiles * TILE

    def _rope_append(self, node: fx.Node, importer: Any) -> Any:
        """`rope_append` as torch writes it once mutation is made explicit: (queries, keys, values)."""
        given = node.kwargs
        keys, values = (importer.env[base] for base in given["_all_bases"])
        qkv, rotation, placement = (
            importer.env[given[name]] for name in ("qkv", "rotation", "placement")
        )
        heads, width = self.config.heads, self.config.head_dim
        queries = relax.TensorType((qkv.ty.shape[0], heads, width), "float32")
        rounds = node.args[0] is torch.ops.gem.rope_append_q8.default
        make = attention_q8.rope_append_q8 if rounds else attention.rope_append
        kernel = self._kernel(importer, make, (self.config,))
        call = relax.op.call_tir_inplace(
            kernel,
            [qkv, rotation, placement, keys, values],
            [3, 4, -1],
            [keys.ty, values.ty, queries],
        )
        result = importer.block_builder.emit(call)
        got = [importer.block_builder.emit(relax.TupleGetItem(result, i)) for i in range(3)]
        return [got[2], got[0], got[1]]

    def _attention(self, make: Callable[..., Any], node: fx.Node, importer: Any) -> Any:
        queries, keys, values, placement = importer.retrieve_args(node)
        # An encoder has heads of its own.
        heads, width = (int(queries.ty.shape[axis]) for axis in (1, 2))
        kv_heads = int(keys.ty.shape[0])
        config = attrs.evolve(self.config, heads=heads, kv_heads=kv_heads, head_dim=width)
        out = _like(queries, heads * width)
        arguments = [queries, keys, values, placement]
        return self._call(importer, make, (config,), arguments, out)

    def _routed_lora(self, make: Callable[..., Any], node: fx.Node, importer: Any) -> Any:
        """In the order of the operation's arguments, of which the kernel writes to `y`."""
        arguments = list(importer.retrieve_args(node))
        down = arguments[-2]
        number, inputs, rank = (int(size) for size in down.ty.shape)
        place = len(arguments) - 4
        y = arguments[place]
        if not _is_used_up(node.args[place]):
            y = importer.block_builder.emit_te(topi.identity, y, primfunc_name_hint="copy")
            arguments[place] = y
        key = (number, inputs, rank, _columns(y), str(down.ty.dtype))
        kernel = self._kernel(importer, make, key)
        return importer.block_builder.emit(
            relax.op.call_tir_inplace(kernel, arguments, [place], [y.ty])
        )

    def _linear_f32(self, node: fx.Node, importer: Any) -> Any:
        x, weight = importer.retrieve_args(node)
        key = (_columns(x), _columns(weight))
        return self._call(importer, dense.linear_f32, key, [x, weight], _like(x, key[1]))


def _index_select(node: fx.Node, importer: Any) -> Any:
    """Rows by index; TVM's own importer would read beyond the end for an index that is too large."""
    x, axis, index = importer.retrieve_args(node)
    return importer.block_builder.emit(relax.op.take(x, index, axis, mode="clip"))


def _is(node: Any, name: str) -> bool:
    return isinstance(node, fx.Node) and node.target is getattr(torch.ops.gem, name).default


def _is_used_up(node: Any) -> bool:
    """Whether a tensor was made for its one use alone, which may then write to it."""
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return False
    made = ("qlinear", "linear_f16", "routed_lora", "routed_lora_q8")
    return node.target is torch.ops.aten.add.Tensor or any(_is(node, name) for name in made)


def _joins_quantize(node: fx.Node) -> bool:
    """Whether the only use of `node` is one `gem::quantize`."""
    return len(node.users) == 1 and _is(next(iter(node.users)), "quantize")


def _joins_feed_forward(node: Any) -> bool:
    """Whether `node` is a product of which only SwiGLU's middle is used, and that only rounded."""
    if not _is(node, "qlinear") or len(node.users) != 1 or node.args[5] % (2 * GROUP):
        return False
    middle = next(iter(node.users))
    return _is(middle, "silu_mul") and _joins_quantize(middle)


def _residual_addition(product: fx.Node) -> fx.Node | None:
    """The addition that is the only use of a product, where both sides have the same shape."""
    if len(product.users) != 1:
        return None
    addition = next(iter(product.users))
    if addition.target is not torch.ops.aten.add.Tensor or addition.kwargs:
        return None
    first, second = addition.args
    if not (isinstance(first, fx.Node) and isinstance(second, fx.Node)) or first is second:
        return None
    # Where both sides are products, the second is the one that is joined.
    chosen = second if _is(second, "qlinear") and len(second.users) == 1 else first
    same = first.meta["val"].shape == second.meta["val"].shape
    return addition if same and chosen is product else None


def _only_ours(name: str, converter: Converter) -> Converter:
    """Torch has operations of the same short name: leave those to TVM."""

    def convert(node: fx.Node, importer: Any) -> Any:
        if getattr(node.target, "namespace", "") == "gem":
            return converter(node, importer)
        return _builtin(importer, name)(node)

    return convert


def _builtin(importer: Any, name: str) -> Callable[[fx.Node], Any]:
    handler: Callable[[fx.Node], Any] = importer.create_convert_map()[name]
    return handler


def _columns(x: Any) -> int:
    return int(x.ty.shape[-1])


def _like(x: Any, columns: int, dtype: str = "float32") -> Any:
    return relax.TensorType((x.ty.shape[0], columns), dtype)


def _quantized(x: Any, columns: int) -> list[Any]:
    """Values, scales and sums of as many rows as `x` has, of `columns` channels."""
    groups = columns // GROUP
    return [_like(x, columns, "int8"), _like(x, groups), _like(x, groups, "int32")]
