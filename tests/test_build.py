from __future__ import annotations

import attrs
import numpy as np
import pytest

from gem_uniform.quantizer import UniformQuantizer
from gemcore.build import bundle_key, cached_bundle, compile_bundle
from gemcore.bundle import WEIGHTS
from gemcore.cache import cache_folder
from gemcore.errors import PluginError, UsageError
from gemcore.models.eager import EagerModel
from gemcore.models.weights import pack_checkpoint
from gemcore.schemes import SCHEMES
from gemcore.testing.routed import SignRouter
from gemcore.testing.tiny import tiny_checkpoint, tiny_config
from tests.conftest import open_tiny

TOKENS = [1, 77, 250, 3, 3, 99, 180, 42, 7, 120, 33, 201, 15, 64, 8, 9, 10]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """A cache for each test; the native sources need not be compiled for each."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "native").symlink_to(cache_folder("native"))
    monkeypatch.setenv("GEM_CACHE", str(folder))


OFTEN = {"f16", "q3a-g32", "q4a-g32", "q4z-g32", "q6-g64", "q8-g32"}
"""The tests of the kernels have all schemes every time; whole models of all are slow."""


@pytest.mark.parametrize(
    "scheme",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in SCHEMES],
)
def test_compiled_logits_are_the_eager_ones(scheme, tiny, tiny_parts, tmp_path):
    parts = attrs.evolve(tiny_parts, quantizer=UniformQuantizer(scheme, scheme))
    bundle = compile_bundle(tiny, parts, tmp_path / "x.gem")
    plan = parts.quantizer.plan(tiny)
    weights, _ = pack_checkpoint(tiny, plan)
    eager = EagerModel(tiny, plan.schemes(), weights)
    assert np.array_equal(open_tiny(bundle).logits(TOKENS), eager.logits(TOKENS))


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": True, "tied_head": False, "architecture": "qwen2"},
        {"heads": 4, "kv_heads": 1},
        {"heads": 6, "kv_heads": 3, "head_dim": 32},
    ],
    ids=["qwen2", "one key-value head", "wide heads"],
)
def test_other_shapes(changes, tiny_parts, tmp_path):
    checkpoint = tiny_checkpoint(tiny_config(**changes), seed=3)
    bundle = compile_bundle(checkpoint, tiny_parts, tmp_path / "x.gem")
    plan = tiny_parts.quantizer.plan(checkpoint)
    weights, _ = pack_checkpoint(checkpoint, plan)
    eager = EagerModel(checkpoint, plan.schemes(), weights)
    assert np.array_equal(open_tiny(bundle).logits(TOKENS), eager.logits(TOKENS))


def test_cache_compiles_once(tiny, tiny_parts):
    steps = []
    opened = []

    def load():
        opened.append(1)
        return tiny

    first = cached_bundle(tiny.identity, load, tiny_parts, step=lambda *step: steps.append(step))
    assert {name for name, _, _ in steps} >= {"packing weights", "compiling"}
    steps.clear()
    second = cached_bundle(tiny.identity, load, tiny_parts, step=lambda *step: steps.append(step))
    assert (second.folder, steps, len(opened)) == (first.folder, [], 1)


def test_cache_mends_itself(tiny, tiny_parts):
    bundle = cached_bundle(tiny.identity, lambda: tiny, tiny_parts)
    (bundle.folder / WEIGHTS).write_bytes(b"damaged")
    again = cached_bundle(tiny.identity, lambda: tiny, tiny_parts)
    assert again.manifest == bundle.manifest


def test_interrupted_compilation_leaves_the_cache_sound(tiny, tiny_parts):
    def interrupt(name, done, total):
        if name == "compiling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_bundle(tiny.identity, lambda: tiny, tiny_parts, step=interrupt)
    bundle = cached_bundle(tiny.identity, lambda: tiny, tiny_parts)
    names = {path.name for path in bundle.folder.parent.iterdir() if not path.name.endswith("lock")}
    assert names == {bundle.folder.name}


def test_key_depends_on_everything(tiny, tiny_parts):
    keys = {
        bundle_key(tiny.identity, tiny_parts),
        bundle_key("another model", tiny_parts),
        bundle_key(tiny.identity, attrs.evolve(tiny_parts, sources=("their-plugin 1.1",))),
        bundle_key(
            tiny.identity,
            attrs.evolve(tiny_parts, names=tiny_parts.names | {"quantizer": "q8-g32"}),
        ),
    }
    assert len(keys) == 4
    assert bundle_key(tiny.identity, tiny_parts) in keys


def test_router_without_experts_is_refused(tiny, tiny_parts, tmp_path):
    class Eager:
        def layer_module(self, layer):
            return SignRouter() if layer else None

    names = tiny_parts.names | {"router": "eager"}
    parts = attrs.evolve(tiny_parts, router=Eager(), names=names)
    with pytest.raises(UsageError, match="router 'eager' chooses among experts, but gives none"):
        compile_bundle(tiny, parts, tmp_path / "x.gem")


def test_strict_refuses_what_was_skipped(tiny_parts, tmp_path):
    checkpoint = tiny_checkpoint(tiny_config(intermediate_size=80))
    with pytest.raises(
        UsageError, match="cannot be quantized as asked: layers.0.feed_forward.down"
    ):
        compile_bundle(checkpoint, tiny_parts, tmp_path / "x.gem", strict=True)
    assert not (tmp_path / "x.gem").exists()
    bundle = compile_bundle(checkpoint, tiny_parts, tmp_path / "x.gem")
    assert bundle.manifest.plan["layers.0.feed_forward.down"] == "f16"
    assert len(bundle.manifest.quantization["skipped"]) == 2


@attrs.frozen
class Careless:
    """A quantizer of eight bits whose plan or weights are changed before anybody sees them."""

    change_plan: object = lambda plan: plan
    change_weights: object = lambda weights: weights

    def plan(self, checkpoint, calibration=None, budget=None):
        return self.change_plan(UniformQuantizer("q8-g32", "q8-g32").plan(checkpoint))

    def apply(self, checkpoint, plan, progress=None):
        weights, report = UniformQuantizer("q8-g32", "q8-g32").apply(checkpoint, plan, progress)
        return self.change_weights(weights), report


def planned(entries):
    return lambda plan: attrs.evolve(plan, entries=entries(plan.entries))


@pytest.mark.parametrize(
    ("quantizer", "said"),
    [
        (Careless(planned(lambda found: found[1:])), "does not plan embedding"),
        (
            Careless(planned(lambda found: (*found, attrs.evolve(found[0], unit="tail")))),
            "plans for the unknown weight tail",
        ),
        (
            Careless(planned(lambda found: (attrs.evolve(found[0], scheme="q9"), *found[1:]))),
            "plans scheme 'q9' for embedding, but it is none of q2z-g32",
        ),
        (
            Careless(change_weights=lambda found: found | {"embedding.packed": np.zeros((2, 3))}),
            "gives 'embedding.packed' as float64 [2, 3], but q8-g32 is packed as uint8 [17, 2, 544]",
        ),
        (
            Careless(
                change_weights=lambda found: {n: w for n, w in found.items() if "qkv" not in n}
            ),
            "gives no weight 'layers.0.attention.qkv.packed'",
        ),
    ],
)
def test_the_mistakes_of_a_quantizer_are_told_by_its_name(
    quantizer, said, tiny, tiny_parts, tmp_path
):
    parts = attrs.evolve(
        tiny_parts, quantizer=quantizer, names=tiny_parts.names | {"quantizer": "hers:bits=8"}
    )
    with pytest.raises(PluginError) as error:
        compile_bundle(tiny, parts, tmp_path / "x.gem")
    assert str(error.value).startswith("quantizer 'hers:bits=8' ")
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []
