"""A run that asks nothing but the right answers, against the whole suite."""

from __future__ import annotations

import json

import pytest

from gem_suite.engines import CompiledEngine
from gem_suite.runner import SuiteRun, run_suite, work_here
from gem_suite.runner_model import describe_bundle
from gem_suite.runner_tasks import SuiteSettings, prepare
from gem_suite.schema import Document
from gem_suite.tasks import Task
from gem_tradeoff.results import bits_score, read_results
from gemcore.errors import GemError

ITEMS = 3


class Silence:
    def begin(self, total, done, tasks):
        self.total = total

    def advance(self, task, cost):
        pass

    def finish(self, task, items):
        pass

    def fail(self, task, problem):
        raise AssertionError(problem)


@pytest.fixture
def data(tmp_path, items):
    """A task of every type, and a corpus."""
    root = tmp_path / "data"
    for kind, item in items.items():
        folder = root / "law" / kind
        folder.mkdir(parents=True)
        rows = [item | {"id": str(n)} for n in range(ITEMS)]
        for key in ("question", "text"):
            if key in item and kind != "token_classification":
                rows = [row | {key: f"{item[key]} {n}"} for n, row in enumerate(rows)]
        (folder / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (folder / "SOURCE.json").write_text(json.dumps({"task_type": kind, "license": "MIT"}))
    (root / "law" / "corpus.heldout.txt").write_text("Some text.\n\nMore of it.\n")
    return root


def run(session, settings, output, *, engine=None, progress=None):
    model = describe_bundle(session.bundle, 256)
    work = work_here(engine or CompiledEngine(session), settings)
    suite = SuiteRun(settings=settings, model=model, output=output)
    return run_suite(suite, work, progress or Silence())


def test_bits_per_byte_are_those_of_the_whole_suite(tiny_session, data, tmp_path):
    costs = []
    found = []
    for name, bits_only in (("whole.json", False), ("bits.json", True)):
        progress = Silence()
        settings = SuiteSettings(data=data, bits_only=bits_only)
        found.append(run(tiny_session, settings, tmp_path / name, progress=progress))
        costs.append(progress.total)
    whole, bits = found
    assert costs[1] < costs[0]
    assert list(whole["results"]) == list(bits["results"])
    for name, values in bits["results"].items():
        for key in ("bits_per_byte,none", "bits_per_byte_stderr,none"):
            assert values[key] == whole["results"][name][key], name
        for mine, theirs in zip(bits["samples"][name], whole["samples"][name], strict=True):
            assert {"doc_id", "bits", "bytes"} <= mine.keys() <= theirs.keys()
            assert all(theirs[key] == value for key, value in mine.items())
    assert "bits_only" not in whole["config"]
    assert bits["config"]["bits_only"] is True
    assert bits["configs"]["classification"]["main_metric"] == "bits_per_byte"
    read = read_results(tmp_path / "bits.json")
    for name, task in read.tasks.items():
        assert bits_score(task).value == pytest.approx(task.reported), name


def test_an_item_without_an_entity_has_no_bits(benchmarks, items):
    benchmark = benchmarks["ncbi_disease"]
    values = items["token_classification"] | {"answer": [0, 0, 0, 0]}
    names = ("text", "tokens", "label_names", "answer")
    fields = {n: tuple(v) if isinstance(v, list) else v for n in names for v in [values[n]]}
    document = Document(index=0, id="x", task_type="token_classification", **fields)
    from gem_suite.right_answers import bits_benchmark

    task = Task(
        benchmark=bits_benchmark(benchmark), documents=(document,), original=1, bits_only=True
    )
    assert task.request(document).pairs == ()
    with pytest.raises(GemError, match="none of its 1 items has a right answer"):
        prepare(task)
