"""Looking at a compiled model while it runs."""

from __future__ import annotations

import numpy as np
import pytest

from gemcore.errors import GemError
from gemcore.models.decoder import causal_placement
from gemcore.runtime.executor import NativeExecutor
from gemcore.runtime.instrument import BUILTIN, CallLog, Clock, LoggedExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.session import Session

TOKENS = np.arange(3, 12, dtype=np.int32)
PLACEMENT = causal_placement(0, len(TOKENS)).numpy()
LAST = np.array([len(TOKENS) - 1], np.int32)


@pytest.fixture
def executor(tiny_session) -> NativeExecutor:
    return tiny_session._executor


def run(executor, session: Session) -> np.ndarray:
    return executor.forward(TOKENS, PLACEMENT, LAST, KVCache(session.config))


def test_looking_changes_no_bit(executor, tiny_session):
    expected = run(executor, tiny_session)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(run(LoggedExecutor(executor), tiny_session), expected)
    timed = executor.instrumented(Clock(executor.library).instrument)
    np.testing.assert_array_equal(run(timed, tiny_session), expected)


def test_every_layer_is_in_the_log(executor, tiny_session):
    logged = LoggedExecutor(executor)
    logged.log.start()
    run(logged, tiny_session)
    kernels = [call for call in logged.log.calls() if call.traffic is not None]
    names = [call.name for call in kernels]
    layers = tiny_session.config.layers
    assert names.count("attention") == names.count("rope_append") == layers
    assert sum(name.startswith("qlinear") for name in names) == 3 * layers + 1
    assert sum(name.startswith("gate_up_quantize") for name in names) == layers
    own = [call.name for call in logged.log.calls() if call.traffic is None]
    assert own
    assert all(name.startswith(BUILTIN) for name in own)
    # Each event is the begin or the end of one call.
    events = [e for call in logged.log.calls() for e in (call.begin, call.end)]
    assert sorted(events) == list(range(logged.log.events))


def test_what_calls_something_else_is_not_counted_itself():
    log = CallLog([])
    log.start()
    for name, before in [("outer", True), ("a", True), ("a", False), ("outer", False)]:
        log._note(None, name, before, None)
    assert [(call.name, call.begin, call.end) for call in log.calls()] == [("a", 1, 2)]


def test_the_clock_keeps_the_time_of_every_event_in_order(executor, tiny_session):
    logged = LoggedExecutor(executor)
    logged.log.start()
    run(logged, tiny_session)
    clock = Clock(executor.library)
    timed = executor.instrumented(clock.instrument)
    for _ in range(2):
        clock.start(logged.log.events)
        run(timed, tiny_session)
        times = clock.stop()
        assert times.shape == (logged.log.events,)
        assert times[0] > 0
        assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("wrong", [-2, 2])
def test_a_pass_that_is_not_the_one_foreseen_is_refused(executor, tiny_session, wrong):
    logged = LoggedExecutor(executor)
    logged.log.start()
    run(logged, tiny_session)
    clock = Clock(executor.library)
    timed = executor.instrumented(clock.instrument)
    clock.start(logged.log.events + wrong)
    run(timed, tiny_session)
    count = logged.log.events // 2
    with pytest.raises(GemError, match=f"made {count} calls in a pass, and {count + wrong // 2} "):
        clock.stop()


def test_a_library_without_a_clock_is_one_sentence():
    from gemcore.runtime.tvm_abi import runtime_library

    library = runtime_library()._name
    with pytest.raises(GemError, match=r"cannot be profiled, .*: compile it again$"):
        Clock(library)
