"""A measured process, from inside and from outside."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from peer_comparison import process
from peer_comparison.errors import ComparisonError, SystemFailedError
from peer_comparison.likelihood import log_likelihood
from peer_comparison.process import worker_environment
from peer_comparison.worker import Worker, answer, peak_memory, serve, timed_run


class Counting:
    """An engine whose next token is always one more than the last."""

    def __init__(self):
        self.calls = []
        self.versions = {"counting": "1.0"}
        self.settings = {"step": 1}

    def begin(self, context):
        self.calls.append(("begin", context))

    def feed(self, tokens):
        self.calls.append(("feed", list(tokens)))
        return self.logits(tokens)[-1]

    def logits(self, tokens):
        return np.eye(50, dtype=np.float32)[np.array(tokens) + 1]


def test_a_run_reads_the_prompt_and_continues_it_token_by_token():
    engine = Counting()
    clock = itertools.accumulate([100.0, 0.5, 2.0]).__next__
    timing = timed_run(engine, [7, 8, 9], 4, clock)
    assert engine.calls == [
        ("begin", 7),
        ("feed", [7, 8, 9]),
        ("feed", [10]),
        ("feed", [11]),
        ("feed", [12]),
    ]
    assert (timing.ttft, timing.decode) == (0.5, 2.0)
    assert (timing.prefill_speed, timing.decode_speed) == (6.0, 1.5)


def test_a_score_is_of_the_tokens_from_its_beginning_on():
    worker = Worker(Counting())
    tokens = [3, 4, 5, 9]
    rows = Counting().logits([4, 5])
    assert worker.score(tokens, 2) == log_likelihood(rows, [5, 9])
    assert worker.greedy([1, 2]) == [2, 3]


def test_requests_and_answers_are_lines_of_json():
    requests = io.StringIO('{"do": "greedy", "tokens": [1, 2]}\n{"do": "nonsense"}\n')
    answers = io.StringIO()
    serve(requests, answers, Worker(Counting()))
    first, second = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert first == {"ok": [2, 3]}
    assert second == {"error": "AttributeError: 'Worker' object has no attribute 'nonsense'"}


def test_what_is_missing_is_named_by_its_first_cause():
    class Wrapped:
        def broken(self):
            try:
                import no_such_module_anywhere  # noqa: F401
            except ImportError as error:
                raise ImportError("could not import the whole thing") from error

    reason = answer(Wrapped(), {"do": "broken"})["error"]
    assert reason == "not installed: No module named 'no_such_module_anywhere'"


def test_our_own_errors_are_their_sentence_alone():
    class Failing:
        def ours(self):
            raise SystemFailedError("it\n does not work")

    assert answer(Failing(), {"do": "ours"}) == {"error": "it does not work"}


def test_peak_memory_is_what_linux_says():
    block = np.ones(40_000_000, np.uint8)
    assert peak_memory() >= block.nbytes
    assert peak_memory() < 1 << 40


def test_the_environment_gives_every_library_its_threads():
    values = worker_environment(3)
    assert values["OMP_NUM_THREADS"] == values["OPENBLAS_NUM_THREADS"] == "3"
    assert values["HF_HUB_OFFLINE"] == "1"
    assert values["PATH"] == os.environ["PATH"]


@pytest.fixture
def start(tmp_path):
    """Starts a real worker process."""
    return lambda **options: process.Worker(
        Path(sys.executable), "a system", tmp_path / "log", **options
    )


def test_a_worker_answers_and_tells_how_busy_it_was(start):
    with start() as worker:
        assert worker.ask("memory") > 1_000_000
        with pytest.raises(SystemFailedError, match="not installed: No module named 'peer_comp"):
            worker.ask("prepare", module="no_such_engine", model={}, options={})
        busy = worker.busy_seconds()
        if busy is not None:
            assert busy > 0
            assert worker.ask("memory") > 0


def test_a_worker_that_ends_is_a_failure_that_names_the_log(start, tmp_path):
    with start() as worker:
        worker.ask("memory")
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(SystemFailedError, match=f"status -9 during 'memory'.*{tmp_path}"):
            worker.ask("memory")


def test_a_worker_that_does_not_answer_is_given_up(start):
    with start(timeout=0.001) as worker, pytest.raises(SystemFailedError, match="no answer to"):
        worker.ask("memory")


def test_an_interpreter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ComparisonError, match="cannot start .*python: No such file"):
        process.Worker(tmp_path / "python", "a system", tmp_path / "log")
