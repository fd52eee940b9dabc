"""Synthetic result files of one model in several precisions, in the form of `gem eval suite`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOMAINS = ("law", "stem", "healthcare")
ITEMS = 80


def make_results(
    losses: Mapping[str, float],
    *,
    quantizer: str = "f16",
    seed: int = 0,
    level: float = 0.7,
    chance: float = 0.25,
    model: str = "tiny",
    items: int = ITEMS,
    noise: float = 0.0,
) -> dict[str, Any]:
    """A result file with one task of right and wrong answers and one corpus in each domain.

    Args:
        losses: by what share the bits per byte of each domain exceed the reference's, and the share
            of right answers that have turned wrong; 0 for domains that are not named.
        noise: standard deviation of what an item's bits differ at random, as a share.
    """
    rng = np.random.default_rng([seed, *quantizer.encode()])
    data: dict[str, Any] = {
        name: {} for name in ("results", "configs", "versions", "task_hashes", "samples")
    }
    data["config"] = {
        "model": model,
        "limit": items,
        "seed": 0,
        "chat_template": False,
        "engine": "compiled",
        "recipe": {"quantizer": quantizer},
    }
    for place, domain in enumerate(DOMAINS):
        # What an item is like does not depend on the precision.
        same = np.random.default_rng([1, place])
        right = same.random(items) < level
        spoilt = same.random(items) < losses.get(domain, 0.0)
        sizes = same.integers(20, 60, size=items)
        bits = sizes * same.normal(1.2, 0.1, size=items) * (1 + losses.get(domain, 0.0))
        bits *= 1 + noise * rng.normal(size=items)
        rows = [
            {"doc_id": n, "acc": float(right[n] and not spoilt[n]), "bits": b, "bytes": int(s)}
            for n, (b, s) in enumerate(zip(bits.tolist(), sizes, strict=True))
        ]
        per_byte = math.fsum(r["bits"] for r in rows) / sum(r["bytes"] for r in rows)
        accuracy = math.fsum(r["acc"] for r in rows) / items
        _add(data, domain, f"exam_{domain}", "acc", accuracy, rows, chance)
        _add(data, domain, f"corpus_{domain}", "bits_per_byte", per_byte, rows, None)
    return data


def _add(data, domain, task, metric, value, rows, chance):
    corpus = chance is None
    data["results"][task] = {"alias": task, f"{metric},none": value}
    data["samples"][task] = rows
    data["versions"][task] = 1
    data["task_hashes"][task] = f"hash of {task}"
    data["configs"][task] = {
        "task": task,
        "domain": domain,
        "task_type": "corpus" if corpus else "multiple_choice",
        "main_metric": metric,
        "chance": chance,
        "higher_is_better": not corpus,
        "num_fewshot": 0,
    }


LOSSES: dict[str, dict[str, float]] = {
    "f16": {},
    "q8-g32": {"law": 0.01},
    "q4a-g32": {"law": 0.02, "stem": 0.10},
    "q4s-g32": {"law": 0.05, "stem": 0.30},
}
BYTES = {"f16": 270_000_000, "q8-g32": 145_000_000, "q4a-g32": 93_000_000, "q4s-g32": 89_000_000}


@pytest.fixture(scope="session")
def make() -> Callable[..., dict[str, Any]]:
    """Makes the content of a result file."""
    return make_results


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Result files of four precisions that lose more and more, without their sizes."""
    paths = []
    for quantizer, losses in LOSSES.items():
        paths.append(tmp_path / f"{quantizer}.json")
        paths[-1].write_text(json.dumps(make_results(losses, quantizer=quantizer)))
    return paths


@pytest.fixture
def measured(make):
    """The same as parts of a study, with their sizes."""
    from gem_study.records import Measured, ModelSize
    from gem_tradeoff.results import parse_results

    return [
        Measured(
            label=quantizer,
            results=parse_results(make(losses, quantizer=quantizer), f"{quantizer}.json"),
            size=ModelSize(bytes=BYTES[quantizer], bits_per_weight=BYTES[quantizer] / 16e6),
        )
        for quantizer, losses in LOSSES.items()
    ]
