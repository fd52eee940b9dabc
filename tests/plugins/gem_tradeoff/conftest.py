"""Synthetic result files: made up at random, in the form that `gem eval suite` writes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

TASKS = {
    "law": {"contracts": ("acc", 0.25), "clauses": ("acc_norm", 0.2)},
    "stem": {"sums": ("exact_match", 0.0)},
    "healthcare": {"diseases": ("f1", 0.0), "exams": ("acc", 0.25)},
}


def f1(counts: list[list[int]]) -> float:
    right, wrong, missed = (sum(row[i] for row in counts) for i in range(3))
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 0.0


def make_samples(rng: np.random.Generator, metric: str, level: float, items: int) -> list[dict]:
    samples = []
    for doc in range(items):
        sample = {"doc_id": doc, "bits": float(rng.gamma(9)), "bytes": int(rng.integers(4, 60))}
        if metric == "f1":
            sample["counts"] = [int(rng.binomial(4, level)), int(rng.integers(0, 2)), 1]
        elif metric != "bits_per_byte":
            sample[metric] = float(rng.random() < level)
        samples.append(sample)
    return samples


def aggregate(samples: list[dict], metric: str) -> float:
    if metric == "bits_per_byte":
        return math.fsum(s["bits"] for s in samples) / sum(s["bytes"] for s in samples)
    if metric == "f1":
        return f1([s["counts"] for s in samples])
    return math.fsum(s[metric] for s in samples) / len(samples)


def make_results(
    seed: int = 0,
    *,
    level: float = 0.6,
    own: str | None = None,
    boost: float = 0.15,
    items: int = 60,
    tasks: dict = TASKS,
    model: str = "tiny",
) -> dict:
    """A result file; items of the domain `own` are answered better by `boost`."""
    rng = np.random.default_rng(seed)
    data = {
        "results": {},
        "configs": {},
        "versions": {},
        "task_hashes": {},
        "samples": {},
        "config": {
            "model": model,
            "limit": items,
            "seed": 0,
            "chat_template": False,
            "specialised_for": own,
        },
    }
    for domain, entries in tasks.items():
        for task, (metric, chance) in {
            **entries,
            f"corpus_{domain}": ("bits_per_byte", None),
        }.items():
            corpus = metric == "bits_per_byte"
            right = level + (boost if domain == own else 0)
            samples = make_samples(rng, metric, right, items)
            if corpus:
                # Text is foreseen alike by all models, and a little better at home.
                text = np.random.default_rng([1, len(domain), items])
                for sample in samples:
                    sample["bytes"] = int(text.integers(300, 400))
                    sample["bits"] = float(
                        sample["bytes"] * text.normal(1.2, 0.1) * (1 - 0.2 * (domain == own))
                    ) + float(rng.normal(0, 1))
            data["samples"][task] = samples
            data["results"][task] = {"alias": task, f"{metric},none": aggregate(samples, metric)}
            data["configs"][task] = {
                "task": task,
                "domain": domain,
                "task_type": "corpus" if corpus else "multiple_choice",
                "main_metric": metric,
                "chance": chance,
                "higher_is_better": not corpus,
                "num_fewshot": 0,
            }
            data["versions"][task] = 1
            data["task_hashes"][task] = f"hash of {task}"
    return data


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make():
    """Makes the content of a result file."""
    return make_results


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path, Path]:
    """Result files of a base and of models for law and for stem."""
    return (
        write(tmp_path / "base.json", make_results(0)),
        write(tmp_path / "law.json", make_results(1, own="law")),
        write(tmp_path / "stem.json", make_results(2, own="stem", level=0.55)),
    )
