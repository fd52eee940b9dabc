"""Passes of one token without the virtual machine: the same bits as with it."""

from __future__ import annotations

import numpy as np
import pytest

from gemcore.errors import GemError
from gemcore.runtime.executor import NativeExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.replay import Replay
from gemcore.runtime.tvm_runtime import CAPTURE, load_function


@pytest.fixture
def executor(tiny_session) -> NativeExecutor:
    return tiny_session._executor


def decode(executor: NativeExecutor, cache: KVCache, tokens: list[int], start: int = 0) -> list:
    """Logits after each token, one pass each, reserving as the text grows."""
    found = []
    for place, token in enumerate(tokens, start):
        cache.reserve(place + 1)
        placement = np.array([[place, place, 0, 0, 0]], np.int32)
        ids, rows = np.array([token], np.int32), np.zeros(1, np.int32)
        found.append(executor.forward(ids, placement, rows, cache))
    return found


def test_replays_give_the_bits_of_the_virtual_machine(executor):
    config = executor_config(executor)
    tokens = [(7 * i) % 200 + 3 for i in range(40)]
    machine = executor.instrumented(None)
    machine._replays = False
    expected = decode(machine, KVCache(config, 16), tokens)
    cache = KVCache(config, 16)  # grows twice on the way
    found = decode(executor, cache, tokens)
    assert executor._passes[cache].calls is not None
    np.testing.assert_array_equal(found, expected)


def executor_config(executor: NativeExecutor):
    from gemcore.testing.tiny import tiny_config

    return tiny_config(context_length=256)


def test_two_texts_take_turns(executor):
    config = executor_config(executor)
    one, two = [5, 6, 7, 8, 9], [15, 16, 17, 18, 19]
    alone = [decode(executor, KVCache(config), tokens) for tokens in (one, two)]
    caches = KVCache(config), KVCache(config)
    for place in range(len(one)):
        for cache, tokens, expected in zip(caches, (one, two), alone, strict=True):
            (found,) = decode(executor, cache, [tokens[place]], place)
            np.testing.assert_array_equal(found, expected[place])


def test_logits_stay_as_they_are_when_the_next_token_is_read(executor):
    first, *rest = decode(executor, KVCache(executor_config(executor)), [5, 6, 7])
    kept = first.copy()
    assert not np.array_equal(rest[0], rest[1])
    np.testing.assert_array_equal(first, kept)


def test_times_are_read_before_each_call_and_after_the_last(executor):
    cache = KVCache(executor_config(executor))
    decode(executor, cache, [5])
    calls = executor._passes[cache].calls
    executor.replay_times = np.zeros(calls + 2, np.int64)
    decode(executor, cache, [6], 1)
    *times, untouched = executor.replay_times
    assert (np.diff(times) >= 0).all()
    assert times[0] > 0
    assert untouched == 0


def test_a_pass_that_does_something_else_is_not_replayed(executor):
    """A function of TVM's that may decide anew with each token."""
    executor = executor.instrumented(None)
    cache = KVCache(executor_config(executor))
    expected = decode(executor, cache, [5, 6, 7])
    note = load_capture(executor)

    def run():
        result = executor._decode(*executor._one_tensors, executor._bound(cache))
        note(None, "vm.builtin.read_if_cond", True, None)
        return result

    replay = Replay(executor.library, run)
    assert replay.calls is None
    executor._passes[cache] = replay
    again = decode(executor, cache, [5, 6, 7])
    np.testing.assert_array_equal(again, expected)


def load_capture(executor: NativeExecutor):
    from gemcore.runtime.tvm_abi import global_function

    module = global_function("ffi.ModuleLoadFromFile")(str(executor.library))
    return global_function("ffi.ModuleGetFunction")(module, CAPTURE, True)


def test_an_unknown_instrument_is_one_sentence(executor):
    with pytest.raises(GemError, match="cannot be loaded: "):
        load_function(executor.library, "forward", pooled=True, instrument="gem_nothing")
