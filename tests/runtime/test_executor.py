"""Running a compiled decoder."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from gem_host.target import HostTarget
from gem_uniform.quantizer import q4a_g32
from gemcore.compiler.export import export_decoder
from gemcore.errors import GemError, UsageError
from gemcore.models.cache_layout import KEY_BLOCK
from gemcore.models.decoder import causal_placement
from gemcore.runtime import executor as executor_module
from gemcore.runtime.executor import NativeExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.tvm_abi import global_function
from gemcore.runtime.tvm_runtime import usable_cores
from gemcore.testing import tiny_checkpoint, tiny_config

# Wide enough that its loops have many tasks.
CONFIG = tiny_config(hidden_size=128, intermediate_size=512, layers=1, context_length=256)
TOKENS = np.arange(3, 43, dtype=np.int32)
PLACEMENT = causal_placement(0, len(TOKENS)).numpy()
LAST = np.array([len(TOKENS) - 1], np.int32)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[Path, list[np.ndarray]]:
    checkpoint, quantizer = tiny_checkpoint(CONFIG), q4a_g32(head="q8-g32")
    plan = quantizer.plan(checkpoint)
    weights, _ = quantizer.apply(checkpoint, plan)
    exported = export_decoder(CONFIG, plan.schemes())
    folder = tmp_path_factory.mktemp("compiled")
    HostTarget().build(exported, CONFIG, folder)
    return folder / "model.so", [weights[name] for name in exported.weights]


def prefill(executor: NativeExecutor) -> np.ndarray:
    return executor.forward(TOKENS, PLACEMENT, LAST, KVCache(CONFIG))


def test_the_number_of_threads_changes_no_bit(compiled):
    results = [
        prefill(NativeExecutor(*compiled, threads=threads))
        for threads in [*range(1, usable_cores() + 1), 1, None]
    ]
    assert np.isfinite(results[0]).all()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_two_texts_at_the_same_time_do_not_disturb_each_other(compiled):
    executors = [NativeExecutor(*compiled) for _ in range(2)]
    expected = prefill(executors[0])
    wrong = []

    def repeat(executor: NativeExecutor) -> None:
        try:
            for _ in range(300):
                np.testing.assert_array_equal(prefill(executor), expected)
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=repeat, args=[executor]) for executor in executors]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_logits_stay_when_the_next_pass_runs(compiled):
    executor, cache = NativeExecutor(*compiled), KVCache(CONFIG)
    zero = np.zeros(1, np.int32)
    kept = [executor.forward(TOKENS[:1], PLACEMENT[:1], zero, cache)]
    copies = [kept[0].copy()]
    for i in range(1, 6):
        part = slice(i, i + 1)
        kept.append(executor.forward(TOKENS[part], PLACEMENT[part], zero, cache))
        copies.append(kept[-1].copy())
    for result, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(result, copy)
    assert len({copy.tobytes() for copy in copies}) == len(copies)


def test_caches_of_different_texts_are_kept_apart(compiled):
    executor = NativeExecutor(*compiled)
    expected = prefill(executor)
    one, other = KVCache(CONFIG), KVCache(CONFIG)
    half = len(TOKENS) // 2
    rows = np.zeros(1, np.int32)
    executor.forward(TOKENS[:half], PLACEMENT[:half], rows, one)
    executor.forward(TOKENS[::-1].copy(), PLACEMENT, rows, other)
    found = executor.forward(TOKENS[half:], PLACEMENT[half:], LAST - half, one)
    np.testing.assert_array_equal(found, expected)


def test_caches_may_alternate_and_grow_token_by_token(compiled):
    executor = NativeExecutor(*compiled)
    texts = [TOKENS, TOKENS[::-1].copy()]
    expected = [
        executor.forward(text, PLACEMENT, np.arange(len(text), dtype=np.int32), KVCache(CONFIG))
        for text in texts
    ]
    caches = [KVCache(CONFIG, KEY_BLOCK), KVCache(CONFIG, KEY_BLOCK)]
    for i in range(len(TOKENS)):
        for text, cache, logits in zip(texts, caches, expected, strict=True):
            cache.reserve(i + 1)
            part = slice(i, i + 1)
            found = executor.forward(text[part], PLACEMENT[part], np.zeros(1, np.int32), cache)
            np.testing.assert_array_equal(found, logits[part])


def test_alternating_caches_are_bound_once(compiled, monkeypatch):
    executor = NativeExecutor(*compiled)
    made = []

    def counting(name):
        made.append(name)
        return global_function(name)

    monkeypatch.setattr(executor_module, "global_function", counting)
    caches = [KVCache(CONFIG), KVCache(CONFIG)]
    zero = np.zeros(1, np.int32)
    for _ in range(3):
        for cache in caches:
            executor.forward(TOKENS[:1], PLACEMENT[:1], zero, cache)
    assert len(made) == 2


def test_a_cache_that_nobody_needs_leaves_nothing_behind(compiled):
    executor, cache = NativeExecutor(*compiled), KVCache(CONFIG)
    prefilled = executor.forward(TOKENS, PLACEMENT, LAST, cache)
    gone = [weakref.ref(cache), *map(weakref.ref, cache._arrays)]
    del cache
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)
    assert np.isfinite(prefilled).all()


@pytest.mark.parametrize("rows", [[], [0, 0]])
def test_one_token_with_another_number_of_rows(compiled, rows):
    executor = NativeExecutor(*compiled)
    one = executor.forward(TOKENS[:1], PLACEMENT[:1], np.zeros(1, np.int32), KVCache(CONFIG))
    wanted = np.array(rows, np.int32)
    found = executor.forward(TOKENS[:1], PLACEMENT[:1], wanted, KVCache(CONFIG))
    np.testing.assert_array_equal(found, one[rows])


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_a_library_that_cannot_be_loaded_is_one_sentence(tmp_path, content):
    library = tmp_path / "model.so"
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(GemError, match=r"model.so' cannot be loaded: ") as error:
        NativeExecutor(library, [])
    assert "\n" not in str(error.value)


def test_too_many_threads_are_refused(compiled):
    with pytest.raises(UsageError, match="threads must be from 1 to"):
        NativeExecutor(*compiled, threads=usable_cores() + 1)
