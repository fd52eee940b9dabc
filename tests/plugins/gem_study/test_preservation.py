"""The table of forgetting, against the formulas in plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gem_study.preservation import GENERAL, Specialised, study_preservation
from gem_study.preservation_report import preservation_report
from gem_study.report import report_lines, report_page
from gem_tradeoff.analysis import Undefined
from gem_tradeoff.bootstrap import item_weights
from gem_tradeoff.results import parse_results
from gemcore.errors import UsageError

TEXTS = {"corpus_law": "law", "corpus_stem": "stem", "corpus_finance": "finance", "wikitext2": "x"}
ITEMS, RESAMPLES = 25, 150


def results(factors):
    """A result file of four texts; `factors` multiply the bits by column."""
    parts = ("results", "configs", "versions", "task_hashes", "samples")
    data = {name: {} for name in parts}
    data["config"] = {"model": "tiny", "limit": None, "seed": 0, "chat_template": False}
    for place, (name, domain) in enumerate(TEXTS.items()):
        rng = np.random.default_rng([3, place])
        sizes = rng.integers(50, 400, size=ITEMS)
        column = domain if name.startswith("corpus") else GENERAL
        bits = sizes * rng.normal(1.0, 0.05, size=ITEMS) * factors.get(column, 1.0)
        data["samples"][name] = [
            {"doc_id": n, "bits": float(b), "bytes": int(s)}
            for n, (b, s) in enumerate(zip(bits, sizes, strict=True))
        ]
        value = float(bits.sum() / sizes.sum())
        data["results"][name] = {"alias": name, "bits_per_byte,none": value}
        data["versions"][name], data["task_hashes"][name] = 1, name
        data["configs"][name] = {
            "domain": domain,
            "task_type": "corpus" if name.startswith("corpus") else "lm_perplexity",
            "main_metric": "bits_per_byte",
            "chance": None,
            "higher_is_better": False,
            "num_fewshot": 0,
        }
    return data


FACTORS = {
    "base": {},
    "full-law": {"law": 0.8, "stem": 1.3, "finance": 0.9, GENERAL: 1.2},
    "preserved-law": {"law": 0.81, "stem": 1.06, GENERAL: 1.03},
    "full-stem": {"stem": 0.9, "law": 1.1, "finance": 1.1, GENERAL: 1.1},
    "routed": {"law": 0.9, "stem": 0.9},
}


@pytest.fixture(scope="module")
def files():
    return {name: parse_results(results(f), f"{name}.json") for name, f in FACTORS.items()}


def models(files, *names):
    found = []
    for name in names:
        kind, _, domain = name.partition("-")
        found += [
            Specialised(kind=kind, domain=own, results=files[name], base=files["base"])
            for own in ([domain] if domain else ["law", "stem"])
        ]
    return found


def rows(name, column):
    """Relative gains of the sample and its resamples, by hand."""
    task = next(t for t, d in TEXTS.items() if column in (d, GENERAL if d == "x" else d))
    weights = item_weights(task, ITEMS, RESAMPLES, 0)
    found = []
    for key in ("base", name):
        samples = results(FACTORS[key])["samples"][task]
        bits = np.array([s["bits"] for s in samples])
        found.append(weights @ bits / (weights @ np.array([s["bytes"] for s in samples])))
    return (found[0] - found[1]) / found[0]


def test_forgetting_gain_and_their_shares(files):
    study = study_preservation(
        models(files, "full-law", "preserved-law", "full-stem", "routed"), resamples=RESAMPLES
    )
    assert study.columns == ("law", "stem", "finance", GENERAL)
    law = study.domains["law"]
    assert list(law) == ["full", "preserved", "routed"]
    # Gains on finance make up for nothing.
    assert law["full"].forgetting.value == pytest.approx((0.3 + 0 + 0.2) / 3)
    assert law["full"].gain.value == pytest.approx(0.2)
    assert law["preserved"].forgetting.value == pytest.approx((0.06 + 0.03) / 3)
    assert law["preserved"].kept.value == pytest.approx(0.19 / 0.2)
    elsewhere = ("stem", "finance", GENERAL)
    lost = {
        name: np.mean([np.maximum(0, -rows(name, c)) for c in elsewhere], axis=0)
        for name in ("full-law", "preserved-law")
    }
    cut = 1 - lost["preserved-law"] / lost["full-law"]
    assert law["preserved"].cut.value == pytest.approx(cut[0])
    low, high = np.percentile(cut[1:], [2.5, 97.5])
    assert (law["preserved"].cut.low, law["preserved"].cut.high) == pytest.approx((low, high))
    assert law["routed"].forgetting.value == 0
    assert law["routed"].cut.value == 1
    # The mean is over domains, of the kinds that all of them have.
    assert list(study.mean) == ["full", "routed"]
    assert study.mean["full"].forgetting.value == pytest.approx((0.5 / 3 + 0.1) / 2)
    assert study.mean["full"].gain.value == pytest.approx((0.2 + 0.1) / 2)
    assert study.mean["routed"].kept.value == pytest.approx(0.1 / 0.15)
    json.dumps(study.to_json(), allow_nan=False)
    report = preservation_report(study)
    assert "full fine-tuning" in "\n".join(report_lines(report))
    assert "Mean over 2 domains" in report_page(report)


def test_nothing_to_divide_by_is_said(files):
    alone = study_preservation(models(files, "preserved-law"), resamples=100)
    cell = alone.domains["law"]["preserved"].cut
    assert cell == Undefined("plain full fine-tuning was not measured")
    harmless = [
        Specialised(kind=kind, domain="law", results=files["routed"], base=files["base"])
        for kind in ("full", "routed")
    ]
    study = study_preservation(harmless, resamples=100)
    cell = study.domains["law"]["routed"].cut
    assert isinstance(cell, Undefined)
    assert "full fine-tuning forgets 0.00 %" in cell.reason
    assert "undefined: full fine-tuning forgets" in "\n".join(
        report_lines(preservation_report(study))
    )


def test_wrong_names(files):
    with pytest.raises(UsageError, match="unknown domain 'laws'"):
        study_preservation(
            [Specialised(kind="full", domain="laws", results=files["base"], base=files["base"])]
        )
    with pytest.raises(UsageError, match="unknown task 'wiki'"):
        study_preservation(models(files, "full-law"), general="wiki")
    with pytest.raises(UsageError, match="no specialised model"):
        study_preservation([])
