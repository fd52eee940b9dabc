"""Benchmark data in the tests: small items made here, and the real folders where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gem_suite.catalog import builtin_benchmarks, by_name
from gem_suite.records import Benchmark

ITEMS: dict[str, dict[str, Any]] = {
    "multiple_choice": {
        "question": "What is cold?",
        "choices": ["ice", "fire", "hot tea"],
        "answer": 0,
    },
    "classification": {"text": "Lovely.", "label_names": ["bad", "good"], "answer": 1},
    "token_classification": {
        "text": "He has measles .",
        "tokens": ["He", "has", "measles", "."],
        "label_names": ["O", "B-Disease", "I-Disease"],
        "answer": [0, 0, 1, 0],
    },
    "generation_qa": {"question": "2 + 2?", "answer": "4"},
    "extractive_qa": {"context": "Ada wrote it.", "question": "Who?", "answer": "Ada"},
    "lm_perplexity": {"text": "Some words .", "answer": ""},
    "open_ended": {"question": "Say hello.", "turns": ["Say hello."], "answer": "Hello!"},
}


@pytest.fixture
def items() -> dict[str, dict[str, Any]]:
    """One good item of every task type, as in a file."""
    return {
        kind: {"id": f"{kind}-0", "task_type": kind, **json.loads(json.dumps(values))}
        for kind, values in ITEMS.items()
    }


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a benchmark's folder below a domain and return it."""

    def write(folder_name: str, rows: list[Any], *, domain: str = "tests", **source: Any) -> Path:
        folder = tmp_path / domain / folder_name
        folder.mkdir(parents=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        text = "".join(f"{line}\n" for line in lines)
        for split in ("test", "train"):
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        if source:
            (folder / "SOURCE.json").write_text(json.dumps(source), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def benchmarks() -> dict[str, Benchmark]:
    """The built-in records."""
    return by_name(builtin_benchmarks())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real benchmark data; the test is skipped where there is none."""
    default = Path(__file__).resolve().parents[3].parent / "shared" / "benchmarks"
    folder = Path(os.environ.get("GEM_DATA") or default)
    if not folder.is_dir():
        pytest.skip("no benchmark data: set GEM_DATA to its folder")
    return folder
