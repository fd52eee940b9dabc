"""Whole decoders compiled: their logits are those of the eager decoder, to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gemcore.compiler.build import build_library
from gemcore.compiler.export import export_decoder
from gemcore.compiler.lower import lower
from gemcore.errors import GemError
from gemcore.models.decoder import Decoder, causal_placement, load_weights, new_caches
from gemcore.models.layout import weight_units
from gemcore.models.weights import pack_checkpoint
from gemcore.reports import Plan, PlanEntry
from gemcore.runtime.executor import FORWARD, NativeExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.testing.routed import tiny_experts

TOKENS = 29


class Pair:
    """A model twice: eager and compiled, with the same weights."""

    def __init__(self, machine, folder, config, chosen, cache="f16") -> None:
        names = [unit.name for unit in weight_units(config)]
        schemes = dict(zip(names, itertools.cycle(chosen), strict=False))
        entries = tuple(
            PlanEntry(unit=name, scheme=s, reason="", bytes=0) for name, s in schemes.items()
        )
        plan = Plan(quantizer="test", entries=entries)
        weights, _ = pack_checkpoint(tiny_checkpoint(config), plan)
        self.config, self.cache = config, cache
        self.eager = Decoder(config, schemes, cache=cache).eval()
        load_weights(self.eager, weights)
        exported = export_decoder(config, schemes, cache=cache)
        library = folder / "model.so"
        build_library(lower(exported, config, machine.isa), machine.level.target, library)
        self.executor = NativeExecutor(library, [weights[name] for name in exported.weights])

    @torch.no_grad()
    def eager_logits(self, tokens, placement) -> np.ndarray:
        rows = torch.arange(len(tokens), dtype=torch.int32)
        caches = new_caches(self.config, 64, scheme=self.cache)
        logits = self.eager(torch.from_numpy(tokens), torch.from_numpy(placement), rows, caches)
        return logits.numpy()

    def compiled_logits(self, tokens, placement, passes) -> np.ndarray:
        cache = KVCache(self.config, 64, self.cache)
        found, start = [], 0
        for size in passes:
            part = slice(start, start + size)
            rows = np.arange(size, dtype=np.int32)
            found.append(self.executor.forward(tokens[part], placement[part], rows, cache))
            start += size
        assert start == len(tokens)
        return np.concatenate(found)


def some_tokens(config, count: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(1).integers(config.vocabulary_size, size=count, dtype=np.int32)


# Schemes are given to the weights in turn: embedding, qkv, out, gate and up, down, qkv, ..., head.
MODELS = {
    # Every scheme at several places, a bias, a head of its own, three query heads to one key head.
    "mixed": (
        tiny_config(tied_head=False, qkv_bias=True, heads=6, head_dim=32),
        ("q8-g32", "q4a-g32", "q4s-g32", "q8-g32", "f16", "f16"),
    ),
    "q4a-g32": (tiny_config(layers=1), ("q4a-g32",)),
    # Codes in pieces, and groups that are two of the activations'.
    "other widths": (
        tiny_config(intermediate_size=128, layers=1),
        ("q6-g32", "q2a-g64", "q3s-g32", "q5a-g64", "q3a-g32"),
    ),
    "f16, 48 wide": (
        tiny_config(hidden_size=48, intermediate_size=80, kv_heads=1, layers=1), ("f16",)
    ),
}  # fmt: skip
BUILDS = [
    ("mixed", "vnni512", "f16"),
    ("mixed", "avx2", "f16"),
    ("mixed", "plain", "f16"),
    ("mixed", "auto", "q8"),
    ("q4a-g32", "auto", "f16"),
    ("other widths", "auto", "f16"),
    ("f16, 48 wide", "auto", "f16"),
]


@pytest.fixture(scope="module", params=BUILDS, ids=", for ".join)
def pair(request, find_machine, tmp_path_factory) -> Pair:
    model, level, cache = request.param
    folder = tmp_path_factory.mktemp("model")
    return Pair(find_machine(level), folder, *MODELS[model], cache=cache)


def test_a_text_in_one_pass_token_by_token_and_in_chunks(pair):
    tokens, placement = some_tokens(pair.config), causal_placement(0, TOKENS).numpy()
    expected = pair.eager_logits(tokens, placement)
    assert np.isfinite(expected).all()
    assert expected.std() > 0.1
    for passes in ([TOKENS], [1] * TOKENS, [2, 17, 1, 9]):
        found = pair.compiled_logits(tokens, placement, passes)
        np.testing.assert_array_equal(found, expected)


def test_several_texts_in_one_pass(pair):
    """A prefix, and three texts of which two continue it."""
    prefix, texts = 7, [(8, 5, 7), (13, 14, 7), (27, 3, 0)]  # first slot, tokens, end of prefix
    rows = [[p, p, 0, 0, 0] for p in range(prefix)]
    for start, count, end in texts:
        rows += [[end + i, start + i, 0, end, start] for i in range(count)]
    placement = np.array(rows, np.int32)
    tokens = some_tokens(pair.config, len(rows))
    found = pair.compiled_logits(tokens, placement, [prefix, len(rows) - prefix])
    np.testing.assert_array_equal(found, pair.eager_logits(tokens, placement))
    # Each text alone, with its prefix before it, has the same logits.
    first = prefix
    for _, count, end in texts:
        alone = np.concatenate([tokens[:end], tokens[first : first + count]])
        expected = pair.eager_logits(alone, causal_placement(0, len(alone)).numpy())
        np.testing.assert_array_equal(found[first : first + count], expected[end:])
        first += count


def test_only_wanted_rows_come_back(pair):
    tokens, placement = some_tokens(pair.config), causal_placement(0, TOKENS).numpy()
    rows = np.array([TOKENS - 1, 3], np.int32)
    cache = KVCache(pair.config, 64, pair.cache)
    found = pair.executor.forward(tokens, placement, rows, cache)
    np.testing.assert_array_equal(found, pair.eager_logits(tokens, placement)[rows])


def test_the_cache_may_grow_between_passes(pair):
    tokens, placement = some_tokens(pair.config), causal_placement(0, TOKENS).numpy()
    cache = KVCache(pair.config, 16, pair.cache)
    found = []
    for i in range(TOKENS):
        cache.reserve(i + 1)
        row = np.zeros(1, np.int32)
        part = slice(i, i + 1)
        found.append(pair.executor.forward(tokens[part], placement[part], row, cache))
    assert cache.capacity == 32
    np.testing.assert_array_equal(np.concatenate(found), pair.eager_logits(tokens, placement))


def test_neighbours_are_joined(find_machine):
    """Rounding happens inside norms and products, and so does SwiGLU; residual additions likewise."""
    isa = find_machine("auto").isa
    config = tiny_config(layers=1)

    def kernels(scheme: str) -> set[str]:
        schemes = {unit.name: scheme for unit in weight_units(config)}
        module = lower(export_decoder(config, schemes), config, isa)
        names = {variable.name_hint for variable in module.get_global_vars()}
        assert FORWARD in names
        return {name.rstrip("_0123456789") for name in names}

    rounded = {"rms_norm_quantize", "gate_up_quantize"}
    assert rounded <= kernels("q8-g32")
    assert not {"rms_norm", "silu_mul", "add"} & kernels("q8-g32")
    assert not rounded & kernels("f16")
    assert {"rms_norm", "silu_mul", "linear_f"} <= kernels("f16")


def test_what_tvm_cannot_import_is_said_in_one_sentence(find_machine):
    class Odd(torch.nn.Module):
        def forward(self, hidden, prior):
            return torch.linalg.qr(hidden[:, :3].T)[0].sum() * prior

    config = tiny_config(layers=1)
    schemes = {unit.name: "f16" for unit in weight_units(config)}
    exported = export_decoder(config, schemes, router=[Odd()], experts=tiny_experts(config))
    with pytest.raises(GemError, match=r"^TVM cannot import this model: .*qr") as caught:
        lower(exported, config, find_machine("auto").isa)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 40}, "hidden_size is 40, .* multiple of 16"),
        ({"intermediate_size": 72}, "intermediate_size is 72, .* multiple of 16"),
        ({"head_dim": 6}, "head_dim is 6, .* multiple of 4"),
    ],
)
def test_sizes_that_do_not_fill_vectors_are_refused(find_machine, changes, said):
    config = tiny_config(layers=1, **changes)
    exported = export_decoder(config, {unit.name: "f16" for unit in weight_units(config)})
    with pytest.raises(GemError, match=said):
        lower(exported, config, find_machine("auto").isa)
