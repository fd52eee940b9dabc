"""Regret, changes and macro-F1, against plain loops, and what is undefined."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_study.report import report_lines, report_page
from gem_study.routing import KNOWN, LEFT_OUT, change, regret, study_routing
from gem_study.routing_f1 import likeliest, macro_f1
from gem_study.routing_records import Routed
from gem_study.routing_report import routing_report
from gem_study.routing_runs import read_routed
from gem_tradeoff.analysis import Undefined
from gem_tradeoff.bootstrap import item_weights
from gem_tradeoff.results import parse_results
from gemcore.errors import FormatError, UsageError

DOMAINS = ("law", "stem")
TASKS = {"exam_law": "law", "terms": "law", "exam_stem": "stem", "new_stem": "stem"}
EXPERTS = {"justice": "law", "stem": "stem"}
ITEMS = 30
RESAMPLES = 200


def results(router, factor, priors=None):
    """A result file of bits per byte: four benchmarks, a corpus and a text.

    Args:
        factor: what the bits of a benchmark are multiplied with, by name.
        priors: by benchmark the prior of every item.
    """
    parts = ("results", "configs", "versions", "task_hashes", "samples")
    data = {name: {} for name in parts}
    config = {"model": "tiny", "limit": ITEMS, "seed": 0, "chat_template": False}
    data["config"] = config | {"recipe": {"router": router}}
    if router != "none":
        data["config"]["experts"] = EXPERTS
    names = [*TASKS, "corpus_law", "wiki"]
    for place, name in enumerate(names):
        rng = np.random.default_rng([2, place])
        sizes = rng.integers(5, 40, size=ITEMS)
        bits = sizes * rng.normal(1.3, 0.1, size=ITEMS) * factor.get(name, 1.0)
        rows = [
            {"doc_id": n, "bits": float(b), "bytes": int(s)}
            for n, (b, s) in enumerate(zip(bits, sizes, strict=True))
        ]
        if priors and name in TASKS:
            rows = [row | {"prior": priors[name]} for row in rows]
        value = math.fsum(row["bits"] for row in rows) / sum(row["bytes"] for row in rows)
        kind = {"corpus_law": "corpus", "wiki": "lm_perplexity"}.get(name, "multiple_choice")
        data["results"][name] = {"alias": name, "bits_per_byte,none": value}
        data["samples"][name] = rows
        data["versions"][name] = 1
        data["task_hashes"][name] = f"hash of {name}"
        data["configs"][name] = {
            "domain": TASKS.get(name, "law"),
            "task_type": kind,
            "main_metric": "bits_per_byte",
            "chance": None if kind == "corpus" else 0.25,
            "higher_is_better": False,
            "num_fewshot": 0,
        }
    return data


RIGHT = {name: {"justice" if domain == "law" else "stem": 0.9} for name, domain in TASKS.items()}
FILES = {
    "none": results("none", {}),
    "oracle": results("oracle:experts=/sets/a", dict.fromkeys(TASKS, 0.9), RIGHT),
    "scar": results(
        "scar:experts=/sets/a",
        {"exam_law": 0.92, "terms": 0.9, "exam_stem": 0.95, "new_stem": 1.02},
        RIGHT | {"terms": {}, "exam_law": {"justice": 0.1}, "new_stem": {"justice": 0.8}},
    ),
    "law": results("static:experts=/sets/a,expert=justice", {"exam_law": 0.9, "terms": 0.9}),
    "stem": results("static:experts=/sets/a,expert=stem", {"exam_stem": 0.9}),
}


def routed(key, label, **changes):
    fields = {"experts": {} if key == "none" else EXPERTS} | changes
    return Routed(label=label, results=parse_results(FILES[key], f"{key}.json"), **fields)


@pytest.fixture(scope="module")
def study():
    routers = [
        routed("scar", "scar"),
        routed("law", "static:expert=justice", always="justice"),
        routed("stem", "static:expert=stem", always="stem"),
    ]
    return study_routing(
        routed("none", "none"),
        routed("oracle", "oracle"),
        routers,
        left_out=["new_stem"],
        resamples=RESAMPLES,
    )


def bits_per_byte(key, name, weights):
    rows = FILES[key]["samples"][name]
    bits = np.array([row["bits"] for row in rows])
    sizes = np.array([row["bytes"] for row in rows])
    return (weights @ bits) / (weights @ sizes)


def reference(key, names):
    """`[1 + resamples]`: the mean over benchmarks, item draws by the benchmark's name."""
    return np.mean(
        [bits_per_byte(key, n, item_weights(n, ITEMS, RESAMPLES, 0)) for n in names], axis=0
    )


def test_regret_is_the_formula_over_means_of_benchmarks(study):
    names = ["exam_law", "terms", "exam_stem"]
    base, oracle, scar = (reference(key, names) for key in ("none", "oracle", "scar"))
    expected = (scar - oracle) / (base - oracle)
    group = study.routers[0].all[KNOWN]
    assert group.benchmarks == tuple(names)
    assert group.regret.value == pytest.approx(expected[0])
    low, high = np.percentile(expected[1:], [2.5, 97.5])
    assert (group.regret.low, group.regret.high) == pytest.approx((low, high))
    assert group.base.value == pytest.approx(base[0])
    assert group.change.value == pytest.approx((scar[0] - base[0]) / base[0])
    assert group.oracle_change.value == pytest.approx(-0.1)
    law = study.routers[0].domains[KNOWN]["law"]
    assert law.benchmarks == ("exam_law", "terms")
    assert 0 < law.regret.value < group.regret.value
    assert study.oracle.all[KNOWN].regret.value == pytest.approx(0)


def test_left_out_benchmarks_and_texts(study):
    scar = study.routers[0]
    assert scar.worse == scar.surely_worse == ("new_stem",)
    assert scar.all[LEFT_OUT].regret.value == pytest.approx(1.2)
    kinds = {benchmark.name: benchmark.kind for benchmark in scar.benchmarks}
    assert kinds["new_stem"] == LEFT_OUT
    assert kinds["corpus_law"] == kinds["wiki"] == "text"
    changes = {benchmark.name: benchmark.change for benchmark in scar.benchmarks}
    assert changes["new_stem"].value == pytest.approx(0.02)
    assert changes["wiki"].value == 0


def test_the_best_single_expert_takes_the_fewest_bits(study):
    # It helps two benchmarks, the other one only one.
    assert study.best_single == "static:expert=justice"


def test_a_prior_of_no_expert_is_a_wrong_answer(study):
    # Known: law is named for one of two benchmarks, and stem for its only one.
    law, stem = 2 * ITEMS / (2 * ITEMS + 0 + ITEMS), 1.0
    f1 = study.routers[0].f1
    assert f1[KNOWN].value == pytest.approx((law + stem) / 2)
    assert f1[LEFT_OUT].value == 0
    assert isinstance(study.routers[1].f1[KNOWN], Undefined)


def test_what_is_written_and_shown(study):
    values = json.loads(json.dumps(study.to_json(), allow_nan=False))
    assert values["routers"][0]["left_out_worse"] == ["new_stem"]
    assert values["routers"][1]["macro_f1"]["known"] == {
        "undefined": "this router gives requests no prior"
    }
    report = routing_report(study)
    text = "\n".join(report_lines(report))
    assert "static:expert=justice (best single)" in text
    assert "more than 0.5 % worse than the base on new_stem" in text
    page = report_page(report)
    assert "<script" not in page
    assert "corpus_law" in page
    assert page.count("<table") == len(report.tables)


def test_an_oracle_that_gains_nothing_is_no_divisor():
    base = np.full(101, 1.0)
    cell = regret(base, base - 1e-5, base)
    assert isinstance(cell, Undefined)
    assert "too little to divide by" in cell.reason
    # Worse than the base, or unsure: neither.
    assert isinstance(regret(base, base + 0.1, base), Undefined)
    unsure = base - np.linspace(-0.01, 0.1, 101)
    unsure[0] = 0.95
    assert isinstance(regret(base, unsure, base), Undefined)


@given(st.integers(0, 2**32 - 1), st.integers(3, 40))
def test_regret_of_any_rows(seed, rows):
    rng = np.random.default_rng(seed)
    base, gain, share = rng.uniform([[0.5], [0.02], [-0.5]], [[3], [0.3], [1.5]], (3, rows))
    oracle = base * (1 - gain)
    cell = regret(base, oracle, oracle + share * (base - oracle))
    assert cell.value == pytest.approx(share[0])
    assert share[1:].min() - 1e-9 <= cell.low <= cell.high <= share[1:].max() + 1e-9
    assert change(base, oracle).value == pytest.approx(-gain[0])
    # A router that is the base has regret 1, one that is the oracle 0.
    assert regret(base, oracle, base).value == pytest.approx(1)
    assert regret(base, oracle, oracle).value == pytest.approx(0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_macro_f1_is_that_of_loops(seed, items):
    pairs = np.random.default_rng(seed).integers(0, (3, 4), (items, 2)).tolist()
    labels = ("a", "b", "c")
    domains = tuple(name for place, name in enumerate(labels) if any(t == place for t, _ in pairs))
    counts = np.zeros((1, len(domains), 4))
    for truth, said in pairs:
        counts[0, domains.index(labels[truth]), said] += 1
    scores = []
    for name in domains:
        place = labels.index(name)
        hits = sum(t == s == place for t, s in pairs)
        wrong = sum(s == place and t != place for t, s in pairs)
        missed = sum(t == place and s != place for t, s in pairs)
        scores.append(2 * hits / (2 * hits + wrong + missed))
    assert macro_f1(counts, domains, labels)[0] == pytest.approx(np.mean(scores))


def test_the_likeliest_domain():
    task = parse_results(FILES["scar"], "scar.json").tasks["terms"]
    said = [
        likeliest(task, {"doc_id": 0, "prior": prior}, EXPERTS)
        for prior in ({}, {"justice": 0.6}, {"justice": 0.3, "stem": 0.4}, {"stem": 0.1})
    ]
    # Of the last, most is left to the general path.
    assert said == [None, "law", "stem", "stem"]
    for wrong in ({"cooking": 1.0}, [1.0], {"stem": "much"}):
        with pytest.raises(FormatError, match="not shares of the experts justice, stem"):
            likeliest(task, {"doc_id": 0, "prior": wrong}, EXPERTS)


def test_files_say_which_router_they_are_of(tmp_path):
    paths = []
    for key, data in FILES.items():
        paths.append(tmp_path / f"{key}.json")
        paths[-1].write_text(json.dumps(data))
    found = read_routed([paths[2], paths[1], paths[4], paths[0]])
    assert [one.label for one in found] == ["none", "oracle", "scar", "static:expert=stem"]
    assert [one.always for one in found] == [None, None, None, "stem"]
    with pytest.raises(UsageError, match="one result file of the router 'oracle', and there are 0"):
        read_routed([paths[0], paths[2]])
    with pytest.raises(UsageError, match="there are 2 of it"):
        read_routed([paths[0], paths[0], paths[1]])


def test_unknown_benchmarks_are_named():
    with pytest.raises(UsageError, match="unknown benchmark 'exam_laws'"):
        study_routing(
            routed("none", "none"),
            routed("oracle", "oracle"),
            [],
            left_out=["exam_laws"],
            resamples=100,
        )
