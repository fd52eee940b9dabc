"""The precision of keys and values as part of the plan."""

import attrs
import numpy as np
import pytest
import torch

from gem_hybrid.as_compiled import cache_operations, rounded
from gem_hybrid.cache_precision import cache_bytes
from gem_hybrid.divergence import cache_divergence, final_states, measure_divergence
from gem_hybrid.plan_file import read_plan, write_plan
from gemcore.build import cache_scheme
from gemcore.errors import UsageError
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.eager import EagerModel
from gemcore.models.layout import EMBEDDING, weight_units
from gemcore.models.weights import pack_checkpoint
from gemcore.packing import unpack_weight
from gemcore.schemes import get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config

WIDE = tiny_config(context_length=256, head_dim=32)
"""Heads as wide as the scheme `q8` wants them."""


@pytest.fixture(scope="module")
def wide():
    return tiny_checkpoint(WIDE)


@pytest.mark.parametrize("scheme", ["f16", "q8"])
def test_bytes_are_those_of_the_real_cache(scheme):
    config = WIDE
    made = new_caches(config, 64, scheme=scheme)
    real = sum(t.numel() * t.element_size() for layer in made for t in layer)
    assert cache_bytes(config, scheme, 50) == real


def test_fewer_bits_cost_more(wide, make):
    windows = make(bits=5).calibration(wide).held_out
    half, eight = (cache_divergence(wide, scheme, windows).kl for scheme in ("f16", "q8"))
    assert half < 1e-6
    assert eight > 10 * abs(half)


@pytest.mark.parametrize("cache", ["f16", "q8"])
def test_rounding_is_that_of_the_compiled_model(wide, make, cache):
    """Every rounding, against the operations that kernels are held to: sums in other orders round apart."""
    plan = make(bits=6, rounding="nearest").plan(wide)
    weights, _ = pack_checkpoint(wide, plan)
    tokens = make(bits=5).calibration(wide).held_out[0][:64]
    schemes = plan.schemes()
    rows = {unit.name: unit.shape[0] for unit in weight_units(wide.config)}

    def packed(name):
        return torch.from_numpy(
            unpack_weight(weights[f"{name}.packed"], get_scheme(schemes[name]), rows[name])
        )

    def logits(**rounding):
        (states,) = final_states(wide, packed, [tokens], head=EMBEDDING, **rounding)
        return (states @ packed(EMBEDDING).T).numpy()

    expected = EagerModel(wide, schemes, weights, cache).logits(tokens)
    found = logits(rounds=set(schemes), cache=cache)
    alone = logits()
    lost, size = (float(np.median(np.abs(x - alone))) for x in (found, expected))
    assert lost == pytest.approx(size, rel=0.2)
    if cache == "f16":
        # A `q8` cache rounds key's scales as well, so that others of its codes are rounded up.
        assert np.median(np.abs(found - expected)) < 0.3 * size


def test_the_divergence_is_of_both_roundings(wide, make):
    plan = make(bits=6, rounding="nearest").plan(wide)
    weights, _ = pack_checkpoint(wide, plan)
    windows = make(bits=5).calibration(wide).held_out
    found = measure_divergence(wide, plan.schemes(), weights, windows)
    assert 0 < found.weights_only < 2 * found.kl


def test_it_is_chosen_within_the_budget(wide, make):
    least = cache_bytes(wide.config, "q8", 256)
    full = cache_bytes(wide.config, "f16", 256)
    schemes = "q8-g32"
    weights = sum(e.bytes for e in make(bits=9, schemes=schemes).plan(wide).entries)
    tight = make(budget=str(weights + least), schemes=schemes, kv_cache="auto").plan(wide)
    loose = make(budget=str(weights + full), schemes=schemes, kv_cache="auto").plan(wide)
    assert (tight.kv_cache.scheme, tight.kv_cache.bytes) == ("q8", least)
    assert (loose.kv_cache.scheme, loose.kv_cache.bytes) == ("f16", full)
    assert tight.kv_cache.reason
    assert len(tight.entries) == len(loose.entries)
    # Named, it is not the weights' to pay for where bits are the limit.
    named = make(bits=8.5, schemes=schemes, kv_cache="q8", context=32).plan(wide)
    assert named.kv_cache.bytes == cache_bytes(wide.config, "q8", 32)


def test_a_plans_file_holds_it(wide, make, tmp_path):
    path = tmp_path / "plan.toml"
    plan = make(bits=6, kv_cache="q8").plan(wide)
    write_plan(path, wide, plan)
    assert 'kv_cache = "q8"' in path.read_text()
    assert read_plan(path, wide, "x").kv_cache.scheme == "q8"
    path.write_text(path.read_text().replace('"q8"\n', '"q7"\n', 1))
    with pytest.raises(UsageError, match=r"plan '.*': unknown cache scheme 'q7'"):
        read_plan(path, wide, "x")


def test_the_bundle_gets_what_the_plan_says(wide, make):
    plan = make(bits=6, kv_cache="q8").plan(wide)
    assert cache_scheme(plan, "f16") == "q8"
    assert cache_scheme(attrs.evolve(plan, kv_cache=None), "f16") == "f16"
    half = attrs.evolve(plan, kv_cache=attrs.evolve(plan.kv_cache, scheme="f16"))
    with pytest.raises(
        UsageError, match="the plan has keys and values in f16, but the KV cache 'q8'"
    ):
        cache_scheme(half, "q8")
    # Where that is what the target prefers, nobody asked for it.
    assert cache_scheme(half, "q8", "q8") == "f16"


def test_what_cannot_be_is_said(wide, make):
    with pytest.raises(UsageError, match="bits do not limit the KV cache"):
        make(bits=5, kv_cache="auto")
    with pytest.raises(UsageError, match="context is for the KV cache"):
        make(bits=5, context=5)
    with pytest.raises(UsageError, match="context=1000, but model 'tiny' attends to at most 256"):
        make(max_kl=0.1, kv_cache="auto", context=1000).plan(wide)
    narrow = tiny_checkpoint(tiny_config(context_length=256))
    with pytest.raises(UsageError, match="'q8' needs heads whose width is a multiple of 32"):
        make(bits=6, kv_cache="q8").plan(narrow)
    assert make(max_kl=1.0, kv_cache="auto").plan(narrow).kv_cache.scheme == "f16"


def test_operations_are_those_of_float32_beside_the_rounding(wide):
    import torch

    config = wide.config
    generator = torch.Generator().manual_seed(0)
    width = (config.heads + 2 * config.kv_heads) * config.head_dim
    qkv = torch.randn(5, width, generator=generator)
    rotation = torch.randn(256, config.head_dim, generator=generator)
    keys, values = new_caches(attrs.evolve(config, layers=1), 16, torch.float32)[0]
    operations = cache_operations()
    operations.rope_append_q8(qkv, rotation, causal_placement(0, 5), keys, values, config.heads)
    own = qkv.reshape(5, -1, config.head_dim)[:, -config.kv_heads :]
    expected = rounded(own.reshape(-1, config.head_dim), config.head_dim)
    torch.testing.assert_close(values[:, :5].transpose(0, 1).reshape(expected.shape), expected)
