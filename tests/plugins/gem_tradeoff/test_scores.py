"""Scores of domains against loops over the items, and files that do not belong together."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from gem_tradeoff.bootstrap import item_weights
from gem_tradeoff.results import parse_results
from gem_tradeoff.scores import DOMAINS, VARIANTS, domain_scores, match
from gemcore.errors import FormatError, GemError, UsageError


def parsed(*contents):
    return [parse_results(data, f"file{number}.json") for number, data in enumerate(contents)]


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def score_by_hand(data, task, drawn):
    """Score of the drawn items, above chance; bits per byte for held-out text."""
    config = data["configs"][task]
    items = [data["samples"][task][index] for index in drawn]
    metric = config["main_metric"]
    if metric == "bits_per_byte":
        return math.fsum(i["bits"] for i in items) / math.fsum(i["bytes"] for i in items)
    if metric == "f1":
        right, wrong, missed = (sum(i["counts"][k] for i in items) for k in range(3))
        score = right / (right + (wrong + missed) / 2)
    else:
        score = mean(i[metric] for i in items)
    return (score - config["chance"]) / (1 - config["chance"])


@pytest.mark.parametrize("variant", ["task", "text"])
def test_every_resample_is_scored_as_by_hand(make, variant):
    contents = make(0, items=12), make(1, items=12, own="law")
    found = domain_scores(parsed(*contents), VARIANTS[variant], resamples=15, seed=4)
    assert found.domains == ("healthcare", "law", "stem")
    assert found.values.shape == (16, 2, 3)
    for column, domain in enumerate(found.domains):
        tasks = [
            name
            for name, config in contents[0]["configs"].items()
            if config["domain"] == domain
            and (config["task_type"] == "corpus") == (variant == "text")
        ]
        assert list(found.tasks[domain]) == tasks
        for row in range(16):
            # The same draw for both models.
            draws = {name: item_weights(name, 12, 15, 4)[row] for name in tasks}
            for model, data in enumerate(contents):
                expected = mean(
                    score_by_hand(data, name, np.repeat(np.arange(12), draws[name].astype(int)))
                    for name in tasks
                )
                assert found.values[row, model, column] == pytest.approx(expected)


def test_answers_are_scored_by_their_bits(make):
    data = make(items=5)
    found = domain_scores(parsed(data), VARIANTS["answer"], resamples=0)
    expected = mean(
        sum(s["bits"] for s in data["samples"][name])
        / sum(s["bytes"] for s in data["samples"][name])
        for name in ("contracts", "clauses")
    )
    assert found.values[0, 0, found.domains.index("law")] == pytest.approx(expected)


def test_tasks_that_are_no_scores_are_not_counted(make):
    data = make()
    data["configs"]["sums"].update(higher_is_better=False, chance=None)
    found = domain_scores(parsed(data), VARIANTS["task"], resamples=0)
    assert found.domains == ("healthcare", "law")


def test_domains_are_in_the_order_of_the_suite_and_others_follow(make):
    tasks = {
        domain: {f"of {domain}": ("acc", 0.5)} for domain in ("zoo", *reversed(DOMAINS), "art")
    }
    found = domain_scores(parsed(make(tasks=tasks)), VARIANTS["text"], resamples=0)
    assert found.domains == (*DOMAINS, "zoo", "art")


def test_the_order_of_items_and_tasks_does_not_matter(make):
    data = make(1)
    shuffled = copy.deepcopy(data)
    for samples in shuffled["samples"].values():
        samples.reverse()
    shuffled["results"] = dict(reversed(shuffled["results"].items()))
    found = domain_scores(parsed(data, shuffled), VARIANTS["task"], resamples=20)
    assert (found.values[:, 0] == found.values[:, 1]).all()


def test_only_some_domains_and_tasks(make):
    files = parsed(make())
    (tasks,) = match(files, domains=["law", "stem"], leave_out=["clauses"])
    assert list(tasks) == ["contracts", "corpus_law", "sums", "corpus_stem"]
    with pytest.raises(UsageError, match="unknown domain 'lwa': did you mean 'law'"):
        match(files, domains=["lwa"])
    with pytest.raises(UsageError, match="unknown task 'clause': did you mean 'clauses'"):
        match(files, leave_out=["clause"])
    with pytest.raises(UsageError, match="has no held-out text"):
        domain_scores(
            files, VARIANTS["text"], domains=["law"], leave_out=["corpus_law"], resamples=0
        )


def change(data, *path, to):
    *holders, last = path
    for key in holders:
        data = data[key]
    data[last] = to


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("config", "limit"), 10, "'limit' is 60 in file0.json but 10 in file1.json"),
        (("config", "seed"), 7, "'seed' is 0 in file0.json but 7 in file1.json"),
        (("config", "chat_template"), True, "'chat_template' is False in file0.json but True"),
        (("versions", "sums"), 2, "'version' is 1 in file0.json, task 'sums' but 2"),
        (("task_hashes", "sums"), "other", "'hash' is 'hash of sums' in file0.json, task 'sums'"),
        (("configs", "sums", "num_fewshot"), 5, "'num_fewshot' is 0 in"),
        (("configs", "sums", "chance"), 0.1, "'chance' is 0.0 in"),
        (("configs", "sums", "domain"), "law", "'domain' is 'stem' in"),
        (("samples", "sums", 3, "doc_id"), 99, "has 60 items and file1.json, task 'sums' has 60"),
    ],
)
def test_files_of_different_runs_are_refused(make, path, value, message):
    data = make(1)
    change(data, *path, to=value)
    with pytest.raises(UsageError) as caught:
        match(parsed(make(0), data))
    assert message in str(caught.value)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_task_that_one_file_lacks_is_named(make, lacking):
    contents = [make(0), make(1)]
    del contents[lacking]["results"]["sums"]
    message = f"task 'sums' is in file{1 - lacking}.json but not in file{lacking}.json"
    with pytest.raises(UsageError, match=message):
        match(parsed(*contents))
    tables = match(parsed(*contents), leave_out=["sums"])
    assert tables[0].keys() == tables[1].keys() == contents[lacking]["results"].keys()


def test_scores_that_chance_does_not_fit(make):
    data = make()
    data["configs"]["sums"]["chance"] = None
    with pytest.raises(FormatError, match="task 'sums': field 'chance' of configs is missing"):
        domain_scores(parsed(data), VARIANTS["task"], resamples=0)
    data = make()
    for sample in data["samples"]["sums"]:
        sample["exact_match"] *= 100
    data["results"]["sums"]["exact_match,none"] *= 100
    with pytest.raises(GemError, match="only scores from 0 to 1 can be set against chance"):
        domain_scores(parsed(data), VARIANTS["task"], resamples=0)
