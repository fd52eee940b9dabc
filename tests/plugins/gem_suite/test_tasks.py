"""Tasks: chosen, loaded, asked and scored; one that is bad does not touch the others."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from gem_suite.errors import DataError, TaskError
from gem_suite.requests import Outcome, digest
from gem_suite.tasks import load_task, plan_tasks
from gemcore.errors import UsageError


@pytest.fixture
def data(tmp_path, write_folder, items):
    """A folder with a known benchmark, an unknown one and a corpus."""
    good = items["multiple_choice"]
    write_folder("piqa", [good, good | {"answer": 1}, good | {"answer": 2}], domain="b")
    write_folder("mine", [items["classification"]] * 3, domain="a", task_type="classification")
    (tmp_path / "b" / "corpus.heldout.txt").write_text("One.\n\nTwo.", encoding="utf-8")
    return tmp_path


def plans_of(data, benchmarks, **chosen):
    return {plan.name: plan for plan in plan_tasks(benchmarks, data, **chosen)}


def test_every_folder_is_a_task(data, benchmarks):
    plans = plans_of(data, benchmarks)
    assert list(plans) == ["mine", "corpus_b", "piqa"]
    assert plans["piqa"].benchmark is benchmarks["piqa"]
    assert plans["mine"].benchmark is None
    assert list(plans_of(data, benchmarks, domains=["a"])) == ["mine"]
    assert list(plans_of(data, benchmarks, names=["piqa"])) == ["piqa"]
    assert plans_of(data, benchmarks, domains=["a"], names=["piqa"]) == {}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"domains": ["c"]}, "unknown domain 'c': Available: a, b"),
        ({"names": ["piqqa"]}, "unknown task 'piqqa': did you mean 'piqa'"),
    ],
)
def test_unknown_names_are_refused(data, benchmarks, chosen, message):
    with pytest.raises(UsageError, match=message):
        plan_tasks(benchmarks, data, **chosen)


def test_a_task_describes_itself(data, benchmarks):
    task = load_task(plans_of(data, benchmarks)["piqa"], limit=2)
    assert task.sample_counts() == {"original": 3, "effective": 2}
    assert task.chance() == pytest.approx(1 / 3)
    assert task.higher_is_better() == {
        "acc_norm": True, "acc": True, "acc_bytes": True, "bits_per_byte": False,
    }  # fmt: skip
    config = task.config()
    assert (config["task"], config["domain"], config["num_fewshot"]) == ("piqa", "commonsense", 0)
    assert config["main_metric"] == "acc_norm"
    json.dumps(config, allow_nan=False)


def test_a_task_is_asked_and_scored(data, benchmarks):
    task = load_task(plans_of(data, benchmarks)["piqa"])
    samples = []
    for document in task.documents:
        request = task.request(document)
        outcome = Outcome(likelihoods=tuple(-1.0 - place for place in range(len(request.pairs))))
        samples.append(task.score(document, request, outcome))
    results = task.results(samples)
    assert results["acc,none"] == pytest.approx(1 / 3)
    json.dumps([results, samples], allow_nan=False)


def test_an_unknown_folder_and_a_corpus_are_run_too(data, benchmarks):
    plans = plans_of(data, benchmarks)
    mine = load_task(plans["mine"], shots=2)
    assert len(mine.request(mine.documents[0]).pairs) == 2 * 4
    assert load_task(plans["mine"], calibrate=False).benchmark.metric == "acc"
    corpus = load_task(plans["corpus_b"], shots=5)
    requests = [corpus.request(document) for document in corpus.documents]
    assert [request.text for request in requests] == ["One.", "Two."]
    assert corpus.config()["task_type"] == "corpus"


def test_examples_follow_the_seed(tmp_path, write_folder, items, benchmarks):
    rows = [items["generation_qa"] | {"question": f"{number}?"} for number in range(20)]
    write_folder("gsm8k", rows)
    plan = plans_of(tmp_path, benchmarks)["gsm8k"]
    digests = []
    for seed in (0, 0, 1):
        task = load_task(plan, seed=seed)
        assert task.shots == 3
        digests.append(digest(task.request(document) for document in task.documents))
    assert digests[0] == digests[1] != digests[2]


def test_one_bad_task_is_named_and_the_others_load(data, benchmarks):
    path = data / "b" / "piqa" / "test.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"answer": 2', '"answer": 3'), encoding="utf-8")
    plans = plans_of(data, benchmarks)
    with pytest.raises(DataError, match=r"test\.jsonl, line 3: 'answer' is 3, out of range"):
        load_task(plans["piqa"], limit=1)
    path.unlink()
    with pytest.raises(DataError, match=r"test\.jsonl does not exist"):
        load_task(plans["piqa"])
    assert load_task(plans["mine"]).documents


def test_a_task_without_items_is_an_error(tmp_path, write_folder, items, benchmarks):
    write_folder("mt_bench", [items["open_ended"] | {"answer": ""}])
    with pytest.raises(TaskError, match="task 'mt_bench' has no items that can be scored"):
        load_task(plans_of(tmp_path, benchmarks)["mt_bench"])


def test_tasks_come_from_the_hub_where_there_is_no_folder(benchmarks, monkeypatch):
    rows = [{"goal": f"{number}?", "sol1": "a", "sol2": "b", "label": 1} for number in range(4)]
    library = SimpleNamespace(load_dataset=lambda *_, split: rows[: 3 if split == "train" else 4])
    monkeypatch.setitem(sys.modules, "datasets", library)
    plans = {plan.name: plan for plan in plan_tasks(benchmarks, None)}
    assert "piqa" in plans
    assert "gsm8k" not in plans
    task = load_task(plans["piqa"], shots=2, limit=1)
    assert (len(task.documents), task.original, len(task.pool)) == (1, 4, 3)


@pytest.mark.parametrize("shots", [None, 2])
def test_the_real_data_loads_and_can_be_asked(real_data, benchmarks, shots):
    plans = plan_tasks(benchmarks, real_data)
    named = [plan for plan in plans if plan.benchmark is not None]
    assert len(named) == 47
    assert len(plans) == 47 + 8
    for plan in plans:
        if plan.benchmark is not None:
            assert plan.domain == plan.benchmark.domain
        task = load_task(plan, limit=3, shots=shots)
        for document in task.documents:
            request = task.request(document)
            assert request.text or request.pairs
            assert all(continuation.strip() for _, continuation in request.pairs)
            assert request.kind != "generate" or request.stop
