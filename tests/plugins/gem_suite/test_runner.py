"""Runs of the suite on a tiny model: the result file, interruptions, and tasks that fail."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite import runner_tasks
from gem_suite.engines import CompiledEngine, EngineChoice
from gem_suite.engines_eager import EagerEngine
from gem_suite.runner import SuiteRun, run_suite, work_here
from gem_suite.runner_model import describe_bundle, describe_checkpoint
from gem_suite.runner_pool import WorkerSetup, work_in_processes
from gem_suite.runner_tasks import SuiteSettings, cut_into_pieces
from gem_tradeoff.results import bits_score, has_bits, main_score, read_results
from gemcore.errors import GemError, UsageError

ITEMS = 5
TIMES = ("date", "total_evaluation_time_seconds")


class Silence:
    """Progress that is only counted."""

    def __init__(self):
        self.total = self.advanced = self.before = 0
        self.finished, self.failed = [], {}

    def begin(self, total, done, tasks):
        self.total, self.before, self.tasks = total, done, tasks

    def advance(self, task, cost):
        self.advanced += cost

    def finish(self, task, items):
        self.finished.append(task)

    def fail(self, task, problem):
        self.failed[task] = problem


class Interrupted(BaseException):
    """Like Ctrl-C, a kill, or a power failure."""


@pytest.fixture
def data(tmp_path, items):
    """A folder with a task of every type, in two domains, and a corpus."""
    root = tmp_path / "data"
    for kind, item in items.items():
        folder = root / ("first" if kind < "l" else "second") / kind
        folder.mkdir(parents=True)
        lines = []
        for number in range(ITEMS):
            values = {**item, "id": str(number)}
            for key in ("question", "text"):
                if key in values and kind != "token_classification":
                    values[key] = f"{values[key]} {number}"
            lines.append(json.dumps(values))
        (folder / "test.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "SOURCE.json").write_text(json.dumps({"task_type": kind, "license": "MIT"}))
    (root / "first" / "corpus.heldout.txt").write_text("Some text.\n\nMore of it.\n\nAn end.\n")
    return root


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(runner_tasks, "PIECE_ITEMS", 2)


@pytest.fixture
def measure(tiny_bundle, tiny_session, data, tmp_path):
    """Run the suite on the compiled tiny model and return the content of the result file."""

    def run(
        name="a.json", *, stop_after=None, progress=None, engine=None, restart=False, **settings
    ):
        chosen = SuiteSettings(data=data, **settings)
        model = describe_bundle(tiny_bundle, 256)
        whole = engine or work_here(CompiledEngine(tiny_session), chosen)

        def work(pieces, tasks):
            for number, done in enumerate(whole(pieces, tasks)):
                if number == stop_after:
                    raise Interrupted
                yield done

        output = tmp_path / name
        suite = SuiteRun(settings=chosen, model=model, output=output, restart=restart)
        results = run_suite(suite, work, progress or Silence())
        assert json.loads(output.read_text("utf-8")) == json.loads(json.dumps(results))
        return results

    return run


def timeless(path):
    """A result file's bytes, the lines of times left out."""
    lines = path.read_bytes().splitlines()
    return [line for line in lines if not any(f'"{time}"'.encode() in line for time in TIMES)]


def test_the_result_file_is_what_the_tradeoff_measures_read(measure, tmp_path):
    progress = Silence()
    results = measure(progress=progress)
    assert results["errors"] == {}
    assert sorted(progress.finished) == sorted(results["results"])
    assert len(progress.finished) == progress.tasks == 8
    assert progress.advanced == progress.total
    read = read_results(tmp_path / "a.json")
    assert read.domains == ("first", "second")
    for name, task in read.tasks.items():
        score = main_score(task)
        assert score.value == pytest.approx(results["results"][name][f"{task.metric},none"])
        assert len(task.samples) == (3 if name == "corpus_first" else ITEMS)
        assert has_bits(task)
        bits = bits_score(task).value
        assert bits == pytest.approx(results["results"][name]["bits_per_byte,none"])
    assert not (tmp_path / "a.json.journal").exists()


def test_what_the_file_says_of_the_run(measure, tiny_bundle):
    results = measure(limit=3, tasks=("classification", "generation_qa"), seed=7)
    assert list(results["results"]) == ["classification", "generation_qa"]
    assert results["n-samples"]["classification"] == {"original": ITEMS, "effective": 3}
    config = results["config"]
    assert (config["model"], config["engine"]) == ("tiny", "compiled")
    assert (config["limit"], config["seed"], config["chat_template"]) == (3, 7, False)
    assert config["recipe"]["quantizer"] == "q4a-g32"
    assert config["bundle"] == describe_bundle(tiny_bundle, 256).bundle
    assert all(len(digest) == 64 for digest in results["task_hashes"].values())
    assert results["configs"]["classification"]["num_fewshot"] == 0
    assert results["versions"] == {"classification": 1, "generation_qa": 1}
    assert set(results["truncated"].values()) == {0}
    documents = [sample["doc_id"] for sample in results["samples"]["classification"]]
    assert documents == [0, 1, 2]


@pytest.mark.parametrize("stops", [[0], [3], [1, 4, 2], [12, 1]])
def test_an_interrupted_run_ends_in_the_same_file(measure, tmp_path, stops):
    measure("whole.json")
    done = 0
    for stop in stops:
        progress = Silence()
        with pytest.raises(Interrupted):
            measure(stop_after=stop, progress=progress)
        assert progress.before >= done
        done = progress.before + progress.advanced
        assert not (tmp_path / "a.json").exists()
    progress = Silence()
    measure(progress=progress)
    assert progress.before == done
    assert progress.before + progress.advanced == progress.total
    assert timeless(tmp_path / "a.json") == timeless(tmp_path / "whole.json")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.72, 0.999])
def test_a_journal_that_was_torn_anywhere_ends_in_the_same_file(measure, tmp_path, share):
    measure("whole.json")
    with pytest.raises(Interrupted):
        measure(stop_after=15)
    journal = tmp_path / "a.json.journal"
    content = journal.read_bytes()
    journal.write_bytes(content[: int(share * len(content))])
    measure()
    assert timeless(tmp_path / "a.json") == timeless(tmp_path / "whole.json")


def test_float32_scores_do_not_depend_on_an_interruption(tiny, data, tmp_path):
    settings = SuiteSettings(data=data, tasks=("classification", "generation_qa"))
    model = describe_checkpoint(tiny, None)
    engine = EagerEngine(tiny)

    def run(name, work):
        output = tmp_path / name
        run_suite(SuiteRun(settings=settings, model=model, output=output), work, Silence())
        return timeless(output)

    whole = run("whole.json", work_here(engine, settings))

    def interrupted(pieces, tasks):
        first = next(iter(work_here(engine, settings)(pieces, tasks)))
        # Half of a piece has been written when the machine loses power.
        yield type(first)(piece=first.piece, records=first.records[:1])
        raise Interrupted

    with pytest.raises(Interrupted):
        run("a.json", interrupted)
    assert (tmp_path / "a.json.journal").read_bytes().count(b"\n") == 2
    assert run("a.json", work_here(engine, settings)) == whole
    config = json.loads((tmp_path / "a.json").read_text())["config"]
    assert (config["engine"], config["bundle"]) == ("eager-float32", None)


def test_another_run_does_not_go_on_with_a_journal(measure):
    with pytest.raises(Interrupted):
        measure(stop_after=2)
    with pytest.raises(UsageError, match="its limit is None, not 2"):
        measure(limit=2)
    assert measure(limit=2, restart=True)["errors"] == {}


def test_items_that_changed_do_not_go_on_with_a_journal(measure, data):
    with pytest.raises(Interrupted):
        measure(stop_after=2)
    path = data / "first" / "classification" / "test.jsonl"
    path.write_text(path.read_text().replace('"answer": 1', '"answer": 0'))
    with pytest.raises(UsageError, match="the items of task 'classification' are others now"):
        measure()


def break_tasks(data):
    (data / "first" / "generation_qa" / "test.jsonl").unlink()
    path = data / "second" / "multiple_choice" / "test.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('"answer": 0', '"answer": 7')
    path.write_text("\n".join(lines) + "\n")


def test_bad_tasks_are_named_and_the_others_go_on(measure, data, tmp_path):
    shutil.copytree(data, tmp_path / "good")
    break_tasks(data)
    progress = Silence()
    results = measure(progress=progress)
    errors = results["errors"]
    assert list(errors) == list(progress.failed) == ["generation_qa", "multiple_choice"]
    assert "generation_qa/test.jsonl does not exist" in errors["generation_qa"]
    assert "multiple_choice/test.jsonl, line 3: 'answer' is 7" in errors["multiple_choice"]
    assert len(results["results"]) == 6
    for field in ("configs", "samples", "versions", "n-samples", "task_hashes"):
        assert set(results[field]) == set(results["results"])
    # Once they are corrected, the others are not asked again.
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "good", data)
    progress = Silence()
    repaired = measure(progress=progress)
    assert sorted(progress.finished) == ["generation_qa", "multiple_choice"]
    assert repaired["errors"] == {}
    measure("whole.json")
    assert timeless(tmp_path / "a.json") == timeless(tmp_path / "whole.json")


def test_a_task_that_fails_on_the_way_is_reported_once(measure, tiny_session, data):
    # "Lovely" is in one task only.
    (token,) = tiny_session.tokenizer.encode("v", special=False)

    class Nonsense(CompiledEngine):
        def forward(self, prior=None):
            passes = super().forward()

            def forward(tokens, placement, rows):
                logits = passes(tokens, placement, rows)
                return logits * math.nan if token in tokens.tolist() else logits

            return forward

    results = measure(engine=work_here(Nonsense(tiny_session), SuiteSettings(data=data)))
    assert list(results["errors"]) == ["classification"]
    assert "log-likelihoods are not numbers" in results["errors"]["classification"]
    assert len(results["results"]) == 7


def test_impossible_outputs_are_refused_before_any_work(measure, tmp_path):
    with pytest.raises(UsageError, match=r"none, does not exist: make it"):
        measure("none/a.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is a folder: name a file"):
        measure("folder")
    with pytest.raises(UsageError, match="unknown task 'clasification': did you mean"):
        measure(tasks=("clasification",))


def test_with_a_chat_template_other_things_are_asked(measure):
    plain = measure("plain.json", tasks=("multiple_choice",))
    chat = measure("chat.json", tasks=("multiple_choice",), chat_template=True)
    bits = [[s["bits"] for s in r["samples"]["multiple_choice"]] for r in (plain, chat)]
    assert bits[0] != bits[1]
    assert chat["config"]["chat_template"] is True


def test_a_model_without_a_template_is_refused(data, tmp_path, tiny):
    import attrs

    model = attrs.evolve(describe_checkpoint(tiny, None), has_template=False)
    settings = SuiteSettings(data=data, chat_template=True)
    run = SuiteRun(settings=settings, model=model, output=tmp_path / "a.json")
    with pytest.raises(UsageError, match="'tiny' has no chat template"):
        run_suite(run, lambda pieces, tasks: iter(()), Silence())


def test_two_processes_write_the_same_file(measure, data, tiny_bundle, tmp_path):
    measure("whole.json")
    choice = EngineChoice(name="compiled", bundle=tiny_bundle.folder)
    setup = WorkerSetup(choice=choice, settings=SuiteSettings(data=data), threads=1)
    measure(engine=lambda pieces, tasks: work_in_processes(pieces, setup, 2))
    assert timeless(tmp_path / "a.json") == timeless(tmp_path / "whole.json")


def test_a_worker_that_cannot_open_the_model_says_why(measure, data, tmp_path):
    choice = EngineChoice(name="compiled", bundle=tmp_path / "none.gem")
    setup = WorkerSetup(choice=choice, settings=SuiteSettings(data=data), threads=1)
    with pytest.raises(GemError, match="no bundle at"):
        measure(engine=lambda pieces, tasks: work_in_processes(pieces, setup, 1))


@given(costs=st.lists(st.integers(1, 400_000), max_size=120))
def test_pieces_hold_every_item_once_in_order(costs):
    pieces = cut_into_pieces(costs)
    assert [place for piece in pieces for place in piece] == list(range(len(costs)))
    for piece in pieces:
        assert 1 <= len(piece) <= runner_tasks.PIECE_ITEMS
        assert len(piece) == 1 or sum(costs[p] for p in piece) <= runner_tasks.PIECE_COST
