"""Profiles: the bytes against an independent count, the times against each other."""

from __future__ import annotations

import json

import attrs
import pytest
from safetensors import safe_open

from gemcore import profile as module
from gemcore.benchmark import BenchmarkResult, measure
from gemcore.errors import GemError, UsageError
from gemcore.profile import KernelProfile, PhaseProfile, Profile, profile
from gemcore.runtime.instrument import Call
from gemcore.runtime.traffic import Traffic

PROMPT, NEW = 21, 13


@pytest.fixture(scope="module")
def measured(tiny_bundle) -> tuple[BenchmarkResult, Profile]:
    from gemcore.api import open_session

    session = open_session(tiny_bundle.folder, threads=1)
    result = measure(session, prompt_tokens=PROMPT, new_tokens=NEW, threads=1, repetitions=2)
    # 256 MiB would tell nothing more here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gemcore.runtime.bandwidth.BYTES", 2**20)
        patch.setattr("gemcore.runtime.bandwidth.largest_cache", lambda: 0)
        return result, profile(session, result)


def weights_and_caches(bundle, positions: list[int]) -> float:
    """Bytes that a pass over these consecutive positions moves: by the file, and by arithmetic."""
    config = bundle.manifest.config
    sizes = {}
    with safe_open(bundle.folder / "weights.safetensors", "numpy") as file:
        for name in file.keys():  # noqa: SIM118 (this is no dictionary)
            sizes[name] = file.get_tensor(name).nbytes
    assert set(sizes) == set(bundle.manifest.weights)
    rotation = sizes.pop("rotation") / config.context_length
    total = sum(sizes.values())
    slot = config.kv_heads * config.head_dim * 2
    for _ in range(config.layers):
        total += rotation * len(positions)
        total += 2 * slot * len(positions)  # written
        total += slot * (positions[-1] + 1)  # values
        total += slot * 16 * (positions[-1] // 16 + 1)  # keys, in blocks of 16
    return total


def test_decode_moves_the_weights_and_the_visible_cache(measured, tiny_bundle):
    _, found = measured
    config = tiny_bundle.manifest.config
    expected = [weights_and_caches(tiny_bundle, [p]) for p in range(PROMPT, PROMPT + NEW - 1)]
    mean = sum(expected) / len(expected)
    embedding = embedding_tile(tiny_bundle, tiles=1)
    assert config.tied_head
    assert found.decode.traffic.memory == pytest.approx(mean + embedding, rel=1e-12)


def test_prefill_moves_the_weights_once(measured, tiny_bundle):
    _, found = measured
    (embedding,) = (k for k in found.prefill.kernels if k.name.startswith("embedding"))
    tile = embedding_tile(tiny_bundle, tiles=1)
    assert embedding.traffic.memory % tile == 0
    assert tile <= embedding.traffic.memory <= PROMPT * tile
    expected = weights_and_caches(tiny_bundle, list(range(PROMPT)))
    assert found.prefill.traffic.memory == pytest.approx(
        expected + embedding.traffic.memory, rel=1e-12
    )


def embedding_tile(bundle, tiles: int) -> int:
    """Bytes of some tiles of 16 rows of the embedding, which is also the head here, in q8-g32."""
    return tiles * bundle.manifest.config.hidden_size // 32 * (16 * 32 + 16 * 2)


def test_products_are_counted_once_a_layer(measured, tiny_bundle):
    _, found = measured
    config = tiny_bundle.manifest.config
    qkv = (config.heads + 2 * config.kv_heads) * config.head_dim
    inner = config.heads * config.head_dim
    layer = config.hidden_size * (qkv + inner + 3 * config.intermediate_size)
    head = config.hidden_size * config.vocabulary_size
    assert found.decode.traffic.multiply_accumulates == config.layers * layer + head
    # Of the prompt, only the last token's logits are wanted.
    assert found.prefill.traffic.multiply_accumulates == PROMPT * config.layers * layer + head


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_parts_add_up(measured, phase):
    result, found = measured
    part: PhaseProfile = getattr(found, phase)
    times = [kernel.microseconds for kernel in part.kernels]
    assert times == sorted(times, reverse=True)
    assert all(time >= 0 for time in times)
    inside = part.kernel_microseconds + part.machine_microseconds
    # What a pass takes holds its calls; in this tiny model much lies between them.
    assert 0.05 * part.instrumented_microseconds < inside < part.instrumented_microseconds
    whole = (
        1e6 * PROMPT / result.prefill.median if phase == "prefill" else 1e6 / result.decode.median
    )
    assert part.microseconds == pytest.approx(whole)
    rate = part.traffic.memory / part.microseconds * 1e6
    assert part.memory_bytes_per_s == pytest.approx(rate)
    assert found.limit_share(part) == pytest.approx(rate / found.bandwidth_limit)
    assert part.outside_share == pytest.approx(1 - part.kernel_microseconds / whole)


def test_json_says_the_same(measured):
    _, found = measured
    values = json.loads(json.dumps(found.to_json()))
    assert values["bandwidth_limit_gb_per_s"] == found.bandwidth_limit / 1e9
    for name in ("prefill", "decode"):
        phase: PhaseProfile = getattr(found, name)
        part = values[name]
        assert part["memory_bytes"] == phase.traffic.memory
        assert sum(kernel["memory_bytes"] for kernel in part["kernels"]) == pytest.approx(
            phase.traffic.memory
        )
        assert sum(kernel["share"] for kernel in part["kernels"]) == pytest.approx(1)
        products = [k for k in part["kernels"] if k["gmac_per_s"] is not None]
        assert products
        assert all(kernel["name"].startswith(("qlinear", "gate_up")) for kernel in products)


def test_rates_of_a_kernel():
    moved = Traffic(read=5e6, written=1e6, memory=4e6, multiply_accumulates=3e6)
    kernel = KernelProfile(name="k", calls=2, microseconds=100.0, traffic=moved)
    assert kernel.memory_bytes_per_s == pytest.approx(4e10)
    assert kernel.multiply_accumulates_per_s == pytest.approx(3e10)
    unmeasurable = attrs.evolve(kernel, microseconds=0.0)
    assert unmeasurable.memory_bytes_per_s == unmeasurable.multiply_accumulates_per_s == 0


def test_passes_in_the_middle_count_and_bytes_are_averaged():
    import numpy as np

    def log(memory):
        kernel = Call(name="k", begin=0, end=1, traffic=Traffic(read=memory, memory=memory))
        own = Call(name="vm.builtin.x", begin=2, end=3, traffic=None)
        return module._PassLog(calls=(kernel, own), events=4)

    timings = [
        (np.array([0, 1000 * us, 1000 * us, 1000 * us + 500]), us / 1e6) for us in (4, 1, 900, 6)
    ]
    phase = module._phase([log(10), log(30)], timings, tokens=1, microseconds=10.0)
    (kernel,) = phase.kernels
    assert kernel.microseconds == pytest.approx((4 + 6) / 2)
    assert phase.instrumented_microseconds == pytest.approx(5)
    assert phase.machine_microseconds == pytest.approx(0.5)
    assert phase.traffic.memory == 20
    assert phase.outside_share == pytest.approx(0.5)
    other = attrs.evolve(log(1), calls=log(1).calls[:1])
    with pytest.raises(GemError, match="not call the same kernels for every token"):
        module._phase([log(10), other], timings, tokens=1, microseconds=10.0)


def test_an_executor_elsewhere_cannot_be_profiled(tiny_session):
    tiny_session._executor = object()
    with pytest.raises(UsageError, match=r"^target 'host' cannot be profiled, .*--profile"):
        module.native_executor(tiny_session)
