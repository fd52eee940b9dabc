"""Routed decoders compiled: experts, a router in one layer, and the prior of the model's first layers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tvm import relax

from gemcore.compiler.build import build_library
from gemcore.compiler.export import export_decoder
from gemcore.compiler.lower import lower
from gemcore.models.decoder import Decoder, causal_placement, load_weights, new_caches
from gemcore.models.layout import weight_units
from gemcore.models.routed import routed_weights
from gemcore.models.weights import dense_weights, pack_checkpoint
from gemcore.reports import Plan, PlanEntry
from gemcore.routing import EarlyPrior
from gemcore.runtime.executor import FORWARD, PRIOR, ROUTES, NativeExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.tvm_runtime import usable_cores
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.testing.routed import (
    MeanPrior,
    SignRouter,
    SoftmaxRouter,
    fill_routing,
    tiny_experts,
)

TOKENS, EXPERTS = 29, 3
# Given to embedding, qkv, out, gate and up, down in turn: each kind of unit has several schemes.
CHOSEN = ("q8-g32", "q4a-g32", "f16", "q8-g32", "q4s-g32", "f16", "q8-g32")


def plan_of(config, chosen) -> Plan:
    names = [unit.name for unit in weight_units(config)]
    given = dict(zip(names, itertools.cycle(chosen), strict=False))
    entries = [PlanEntry(unit=n, scheme=s, reason="", bytes=0) for n, s in given.items()]
    return Plan(quantizer="test", entries=tuple(entries))


class RoutedPair:
    """A routed model of three layers, of which the second routes: eager, compiled and without experts."""

    def __init__(self, machine, folder, router=None, chosen=CHOSEN, prior=None, **shape) -> None:
        config = tiny_config(**{"layers": 3, "qkv_bias": True, **shape})
        routers = [None, router or SignRouter(), *[None] * (config.layers - 2)]
        routers = routers[-config.layers :]
        experts = tiny_experts(config)
        plan = plan_of(config, chosen)
        if chosen == ("f32",):
            base = dense_weights(tiny_checkpoint(config))
        else:
            base, _ = pack_checkpoint(tiny_checkpoint(config), plan)
        self.config, self.schemes = config, plan.schemes()
        self.plain = Decoder(config, self.schemes).eval()
        load_weights(self.plain, base)
        self.eager = Decoder(config, self.schemes, router=routers, experts=experts).eval()
        deltas = fill_routing(self.eager)
        self.weights = routed_weights(base, experts, {}, routers, prior) | deltas
        load_weights(self.eager, {n: w for n, w in self.weights.items() if PRIOR not in n})
        early = None if prior is None else EarlyPrior(layers=1, module=prior)
        exported = export_decoder(
            config, self.schemes, router=routers, experts=experts, prior=early
        )
        self.library, self.names = folder / "model.so", exported.weights
        build_library(lower(exported, config, machine.isa), machine.level.target, self.library)
        self.executor = self.open(self.weights)

    def open(self, weights, threads=None) -> NativeExecutor:
        return NativeExecutor(self.library, [weights[name] for name in self.names], threads)

    @torch.no_grad()
    def expected(self, tokens, placement, prior=None) -> np.ndarray:
        decoder = self.plain if prior is None else self.eager
        inputs = [torch.from_numpy(array) for array in (tokens, placement)]
        rows = torch.arange(len(tokens), dtype=torch.int32)
        given = () if prior is None else (torch.from_numpy(prior),)
        return decoder(*inputs, rows, new_caches(self.config, 64), *given).numpy()

    def found(self, tokens, placement, prior, passes, executor=None) -> np.ndarray:
        executor, cache = executor or self.executor, KVCache(self.config, 64)
        parts, start = [], 0
        for size in passes:
            part, rows = slice(start, start + size), np.arange(size, dtype=np.int32)
            parts.append(executor.forward(tokens[part], placement[part], rows, cache, prior[part]))
            start += size
        assert start == len(tokens)
        if size == 1 and executor._replays:
            assert executor._passes[cache].calls is not None
        return np.concatenate(parts)


def text(config, count: int = TOKENS) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(1).integers(config.vocabulary_size, size=count, dtype=np.int32)
    return tokens, causal_placement(0, count).numpy()


def each(count: int, *prior: float) -> np.ndarray:
    return np.tile(np.array(prior, np.float32), (count, 1))


@pytest.fixture(scope="module")
def pair(machine, tmp_path_factory) -> RoutedPair:
    prior = MeanPrior(64, EXPERTS)
    torch.nn.init.normal_(prior.scores, generator=torch.Generator().manual_seed(0))
    return RoutedPair(machine, tmp_path_factory.mktemp("routed"), prior=prior)


def test_any_passes_and_any_threads_give_the_bits_of_the_eager_model(pair):
    tokens, placement = text(pair.config)
    prior = each(TOKENS, 0.2, 0.5, 0.3)
    prior[4::3, 1] = 0
    expected = pair.expected(tokens, placement, prior)
    assert np.abs(expected - pair.expected(tokens, placement)).max() > 0.1
    for threads in range(1, min(2, usable_cores()) + 1):
        executor = pair.open(pair.weights, threads)
        for passes in ([TOKENS], [1] * TOKENS, [2, 17, 1, 9]):
            found = pair.found(tokens, placement, prior, passes, executor)
            np.testing.assert_array_equal(found, expected)


def test_texts_of_one_pass_have_priors_of_their_own(pair):
    texts = [(0, 8, [0.9, 0, 0]), (16, 13, [0, 0, 0]), (32, 5, [0.1, 0.2, 0.7])]
    rows, priors = [], []
    for start, count, prior in texts:
        rows += [[i, start + i, 0, 0, start] for i in range(count)]
        priors.append(each(count, *prior))
    placement, prior = np.array(rows, np.int32), np.concatenate(priors)
    tokens, _ = text(pair.config, len(rows))
    found = pair.found(tokens, placement, prior, [len(rows)])
    first = 0
    for (_, count, _), own in zip(texts, priors, strict=True):
        part = slice(first, first + count)
        alone = tokens[part], causal_placement(0, count).numpy()
        np.testing.assert_array_equal(found[part], pair.expected(*alone, own))
        if not own.any():
            np.testing.assert_array_equal(found[part], pair.expected(*alone))
        first += count


def test_rows_of_zeros_are_the_base_model_bit_by_bit(pair):
    tokens, placement = text(pair.config)
    expected = pair.expected(tokens, placement)
    for passes in ([TOKENS], [1] * TOKENS):
        found = pair.found(tokens, placement, each(TOKENS, 0, 0, 0), passes)
        np.testing.assert_array_equal(found, expected)


def test_experts_that_do_not_work_may_hold_anything(pair):
    tokens, placement = text(pair.config)
    prior = each(TOKENS, 0.4, 0, 0.6)
    expected = pair.expected(tokens, placement, prior)
    spoilt = dict(pair.weights)
    for name in pair.names:
        # Nobody works before the layer that routes.
        if name.endswith((".down", ".up")):
            spoilt[name] = spoilt[name].copy()
            spoilt[name][slice(None) if name.startswith("layers.0.") else 1] = np.nan
    executor = pair.open(spoilt)
    for passes in ([TOKENS], [1] * TOKENS):
        found = pair.found(tokens, placement, prior, passes, executor)
        np.testing.assert_array_equal(found, expected)


@torch.no_grad()
def test_the_first_layers_give_the_prior(pair):
    tokens, placement = text(pair.config, 11)
    inputs = [torch.from_numpy(array) for array in (tokens, placement)]
    caches = new_caches(pair.config, 64)
    hidden = pair.eager.hidden(*inputs, caches, layers=1)
    network = MeanPrior(64, EXPERTS)
    network.load_state_dict({"scores": torch.from_numpy(pair.weights["prior.scores"])})
    expected = network(hidden).numpy()
    cache = KVCache(pair.config, 64)
    found = pair.executor.prior(tokens, placement, cache)
    assert found.shape == (EXPERTS,)
    assert expected.std() > 0.01
    # The mean and the softmax are TVM's own.
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # It has written what those layers write, and no more; and the model goes on as if nothing were.
    written = [tensor.numpy() for layer in caches for tensor in layer]
    for array, wanted in zip(cache.tensors, written, strict=True):
        np.testing.assert_array_equal(np.asarray(array), wanted)
    prior = np.tile(found, (11, 1))
    logits = pair.executor.forward(tokens, placement, np.arange(11, dtype=np.int32), cache, prior)
    np.testing.assert_array_equal(logits, pair.expected(tokens, placement, prior))


def test_routes_are_what_the_router_says_in_any_passes(pair):
    """The second of three layers routes; the cache is written before it, and not from it on."""
    tokens, placement = text(pair.config)
    prior = each(TOKENS, 0.2, 0.5, 0.3)
    said = []
    router = pair.eager.layers[1].router
    hook = router.register_forward_hook(lambda _, given, result: said.append(result.numpy()))
    pair.expected(tokens, placement, prior)
    hook.remove()
    for passes in ([TOKENS], [1] * TOKENS, [2, 17, 1, 9]):
        cache, parts, start = KVCache(pair.config, 64), [], 0
        for size in passes:
            part = slice(start, start + size)
            given = tokens[part], placement[part], prior[part]
            parts.append(pair.executor.routes(*given, cache).copy())
            start += size
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), said)
        written = [np.asarray(tensor).any() for tensor in cache.tensors]
        assert written == [True, True, False, False, False, False]


def test_a_learned_router(find_machine, tmp_path):
    """Its matrix product is TVM's own, in an order of its own: near, not equal.

    No weight comes close to its threshold, where the smallest difference would be a large one. Products of
    float32 weights are TVM's own, too; their rows are copied before experts are added.
    """
    router = SoftmaxRouter(64, EXPERTS, threshold=0.0)
    pair = RoutedPair(find_machine("auto"), tmp_path, router, ("f32",), layers=1, qkv_bias=False)
    tokens, placement = text(pair.config)
    prior = each(TOKENS, 0.2, 0.5, 0.3)
    expected = pair.expected(tokens, placement, prior)
    for passes in ([TOKENS], [1] * TOKENS):
        found = pair.found(tokens, placement, prior, passes)
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_neighbours_are_joined_around_experts(find_machine):
    """Only the norm that a router reads stands alone; the two functions share their kernels."""
    isa = find_machine("auto").isa
    config = tiny_config(layers=3)
    schemes = {unit.name: "q8-g32" for unit in weight_units(config)}
    every = tiny_experts(config)
    narrow = tiny_experts(config, rank=5)
    chosen = frozenset(u for u in every.layers if u.endswith(("qkv", "out", "down")))
    experts = type(every)(names=narrow.names, rank=5, layers=chosen)
    exported = export_decoder(
        config,
        schemes,
        router=[None, SignRouter(), None],
        experts=experts,
        prior=EarlyPrior(layers=2, module=MeanPrior(64, EXPERTS)),
    )
    module = lower(exported, config, isa)
    names = [variable.name_hint for variable in module.get_global_vars()]
    assert len([name for name in names if name.startswith("rms_norm_64")]) == 1
    kinds = {name.rstrip("_0123456789") for name in names}
    assert {FORWARD, PRIOR, "rms_norm_quantize", "gate_up_quantize", "routed_lora_q"} <= kinds
    assert not {"add", "silu_mul", "silu_mul_quantize", "copy"} & kinds
    forward, prior = kernel_calls(module[FORWARD]), kernel_calls(module[PRIOR])
    # Nobody works before the layer that routes: three products in each of the two others.
    assert sum(name.startswith("routed_lora_q8") for name in forward) == 2 * 3
    assert sum(name.startswith("rms_norm_64") for name in forward) == 1
    assert not any(name.startswith(("routed_lora", "rms_norm_64")) for name in prior)
    assert set(prior) - set(forward) == {name for name in prior if name.startswith("linear_f32")}
    routes = kernel_calls(module[ROUTES])
    assert set(routes) <= set(forward) | {name for name in routes if name.startswith("expand_dims")}
    assert sum(name.startswith("rms_norm_64") for name in routes) == 1


def kernel_calls(function) -> list[str]:
    """Names of the kernels that a function calls, once for each call."""
    found: list[str] = []

    def visit(expression) -> None:
        if isinstance(expression, relax.Call) and "call_tir" in str(expression.op):
            found.append(expression.args[0].name_hint)

    relax.analysis.post_order_visit(function, visit)
    return found


@pytest.mark.parametrize(
    ("layers", "numbers", "said"),
    [(4, EXPERTS, "wants to read 4 layers of a model that has 3"), (1, 2, r"shape \[2\], not one")],
)
def test_a_prior_that_does_not_fit_is_refused(layers, numbers, said):
    from gemcore.errors import GemError

    config = tiny_config(layers=3)
    schemes = {unit.name: "f16" for unit in weight_units(config)}
    prior = EarlyPrior(layers=layers, module=MeanPrior(64, numbers))
    with pytest.raises(GemError, match=said):
        export_decoder(
            config,
            schemes,
            router=[SignRouter(), None, None],
            experts=tiny_experts(config),
            prior=prior,
        )
