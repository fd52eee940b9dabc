"""A little folder of benchmark data in two domains, and torch on one thread."""

from __future__ import annotations

import json

import pytest
import torch

from gem_experts.training.material import MaterialSettings, read_material
from gemcore.text.tokenizer import Tokenizer

LAW = "The court held that the clause binds both parties to the contract."
GENERAL = "A cat sat on a warm stone and slept until the rain began."


@pytest.fixture(autouse=True)
def one_thread():
    """With more threads sums may come in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_benchmark(root, domain, name, licence, items):
    folder = root / domain / name
    folder.mkdir(parents=True)
    lines = "".join(
        json.dumps({"id": f"{name}-{n}", **item}) + "\n" for n, item in enumerate(items)
    )
    (folder / "train.jsonl").write_text(lines, "utf-8")
    (folder / "test.jsonl").write_text(lines, "utf-8")
    kinds = {item["task_type"] for item in items}
    source = {"name": name, "task_type": kinds.pop(), "metric": "acc", "license": licence}
    (folder / "SOURCE.json").write_text(json.dumps(source), "utf-8")


def choice(question, right, wrong, **more):
    return {
        "task_type": "multiple_choice",
        "question": question,
        "choices": [wrong, right],
        "answer": 1,
        **more,
    }


@pytest.fixture
def data(tmp_path):
    """Domains `law_x` (two benchmarks, one of them non-commercial) and `daily`, each with a corpus."""
    root = tmp_path / "data"
    items = [choice(f"Is clause {n} binding?", "It binds.", "No.") for n in range(6)]
    write_benchmark(root, "law_x", "free_law", "MIT", items)
    write_benchmark(root, "law_x", "paid_law", "CC BY-NC 4.0", items[:2])
    daily = [choice(f"Where is cat {n}?", "On a stone.", "Gone.") for n in range(4)]
    write_benchmark(root, "daily", "cats", "Apache-2.0", daily)
    for domain, text in (("law_x", LAW), ("daily", GENERAL)):
        for name in ("corpus.txt", "corpus.heldout.txt"):
            (root / domain / name).write_text("\n\n".join([text] * 8) + "\n", "utf-8")
    return root


@pytest.fixture
def material(data, tiny):
    """Everything of `law_x`, licences aside, in tokens."""

    def read(**changes):
        preserve = changes.pop("preserve", True)
        values = {
            "root": data,
            "domain": "law_x",
            "licences": "all",
            "batch_tokens": 128,
            "general_tokens": 256,
            **changes,
        }
        tokenizer = Tokenizer.from_text_data(tiny.text)
        return read_material(MaterialSettings(**values), {}, tokenizer, preserve=preserve)

    return read
