"""Whether GEM in float32 chooses as lm-evaluation-harness does with its Hugging Face backend.

    python benchmarks/lm_eval_agreement.py --data DIR [--model smollm2-135m] [--limit 100]
                                           [--tasks hellaswag,piqa] [--threads 2] [--work DIR] [-o FILE]

The model's weights are written as a Hugging Face folder in float32. The harness reads the benchmark
files by local tasks with the prompts of its own tasks of these names, and runs them with `--model hf`
on that folder; GEM runs the same items by its own prompts in its float32 engine. Compared are, item by
item, the prompts, the log-likelihoods and the choices by log-likelihood (acc) and by log-likelihood
per character (acc_norm). The exit code is 1 where fewer than 98 % of a benchmark's choices are equal.

Needs the extra `gemcore[lm-eval]` and transformers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

if TYPE_CHECKING:
    from gem_suite.engines import Engine
    from gem_suite.tasks import Task

LEAST_AGREEMENT = 0.98
QUESTION = "Question: {{question}}\nAnswer:"
TASKS = ("hellaswag", "piqa", "arc_challenge", "openbookqa", "winogrande")


@attrs.frozen(kw_only=True)
class Item:
    """One item as one side sees it.

    Attributes:
        pairs: contexts and continuations, one a choice.
        likelihoods: of the continuations, in nats.
        lengths: characters of the choices, by which `acc_norm` divides.
    """

    pairs: tuple[tuple[str, str], ...]
    likelihoods: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def choices(self) -> tuple[int, int]:
        """The choice by log-likelihood, and by log-likelihood per character."""
        values = np.array(self.likelihoods)
        return int(values.argmax()), int((values / np.array(self.lengths)).argmax())


def harness_task(name: str, path: Path, cache: Path) -> dict[str, Any]:
    """A local task of the harness, with the prompt and the preprocessing of its own task."""
    prompts: dict[str, Any]
    if name == "hellaswag":
        prompts = _hellaswag()
    elif name == "winogrande":
        prompts = _winogrande()
    else:
        prompts = {"doc_to_text": "{{question}}" if name == "openbookqa" else QUESTION}
    return {
        "task": f"local_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(cache)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_target": "answer",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"version": 0},
        **prompts,
    }


def _hellaswag() -> dict[str, Any]:
    from lm_eval.tasks.hellaswag.utils import preprocess

    return {
        "doc_to_text": lambda doc: preprocess(doc["context"]),
        "doc_to_choice": lambda doc: [preprocess(choice) for choice in doc["choices"]],
    }


def _winogrande() -> dict[str, Any]:
    from lm_eval.tasks.winogrande import preprocess_winogrande as own

    def row(doc: dict[str, Any]) -> dict[str, str]:
        first, second = doc["choices"]
        answer = str(doc["answer"] + 1)
        return {"sentence": doc["question"], "option1": first, "option2": second, "answer": answer}

    return {
        "doc_to_text": lambda doc: own.doc_to_text(row(doc)),
        "doc_to_target": lambda doc: own.doc_to_target(row(doc)),
        "doc_to_choice": lambda doc: own.doc_to_choice(row(doc)),
    }


def harness_samples(
    folder: Path, task: dict[str, Any], limit: int, batch_size: int
) -> list[dict[str, Any]]:
    """The harness's own samples of a task, from its Hugging Face backend on the processor."""
    from lm_eval import simple_evaluate

    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=[task],
        batch_size=batch_size,
        device="cpu",
        limit=limit,
        bootstrap_iters=0,
    )
    return sorted(results["samples"][task["task"]], key=lambda sample: int(sample["doc_id"]))


def compare(theirs: Sequence[Item], ours: Sequence[Item]) -> dict[str, Any]:
    """How far two sides agree on the same items.

    Returns:
        `items`; the shares of equal prompts and of equal choices, `prompts`, `acc` and `acc_norm`; and
        `difference`, the largest between two log-likelihoods in nats.
    """
    pairs = list(zip(theirs, ours, strict=True))
    same = np.array(
        [
            (a.pairs == b.pairs, *(x == y for x, y in zip(a.choices, b.choices, strict=True)))
            for a, b in pairs
        ]
    ).mean(axis=0)
    difference = max(
        abs(x - y) for a, b in pairs for x, y in zip(a.likelihoods, b.likelihoods, strict=True)
    )
    names = ("prompts", "acc", "acc_norm")
    return {"items": len(pairs), **dict(zip(names, same.tolist(), strict=True))} | {
        "difference": difference
    }


def compare_benchmarks(
    given: argparse.Namespace, work: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run both sides on one benchmark after the other; its name and what `compare` says of it."""
    import torch
    from peer_comparison.source import export_model

    from gem_suite.catalog import builtin_benchmarks, by_name
    from gem_suite.engines_eager import EagerEngine
    from gem_suite.tasks import load_task, plan_tasks
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host

    torch.set_num_threads(given.threads)
    plans = plan_tasks(by_name(builtin_benchmarks()), given.data, names=given.tasks)
    folder = export_model(given.model, work).folder
    engine = EagerEngine(load_checkpoint(given.model, get_host()), threads=given.threads)
    for plan in plans:
        assert plan.folder is not None
        task = load_task(plan, limit=given.limit, shots=0, calibrate=False)
        local = harness_task(plan.name, plan.folder.test, work / "datasets")
        samples = harness_samples(folder, local, given.limit, given.batch_size)
        ours = gem_items(engine, task)
        theirs = [
            Item(
                pairs=tuple((context, text) for context, text in sample["arguments"]),
                likelihoods=tuple(float(value) for value, _ in sample["filtered_resps"]),
                lengths=item.lengths,
            )
            for sample, item in zip(samples, ours, strict=True)
        ]
        right = [
            item.choices[0] == doc.gold for item, doc in zip(ours, task.documents, strict=True)
        ]
        yield (
            plan.name,
            compare(theirs, ours)
            | {
                "accuracy_harness": float(np.mean([sample["acc"] for sample in samples])),
                "accuracy_gem": float(np.mean(right)),
            },
        )


def gem_items(engine: Engine, task: Task) -> list[Item]:
    """A task's items with GEM's prompts, answered by `engine`."""
    from gem_suite.prompts import continuation_texts
    from gem_suite.runner_answers import answer_requests

    requests = [task.request(document) for document in task.documents]
    return [
        Item(
            pairs=request.pairs,
            likelihoods=answer.outcome.likelihoods,
            lengths=tuple(map(len, continuation_texts(task.benchmark.prompt, document))),
        )
        for document, request, answer in zip(
            task.documents, requests, answer_requests(engine, requests), strict=True
        )
    ]


def header() -> str:
    """The first line of the table."""
    return (
        "benchmark       items  same prompt  same acc  same acc_norm  largest difference  "
        "acc: lm-eval, GEM"
    )


def line(name: str, row: dict[str, Any]) -> str:
    """A benchmark's line of the table."""
    return (
        f"{name:15s} {row['items']:5d} {row['prompts']:12.1%} {row['acc']:9.1%} "
        f"{row['acc_norm']:14.1%} {row['difference']:15.1e} nat "
        f"{row['accuracy_harness']:13.3f} {row['accuracy_gem']:6.3f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 where the two sides do not agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of benchmark data")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(TASKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16, help="of the harness")
    parser.add_argument("--work", type=Path, help="where the float32 folder is kept")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    given = parser.parse_args(arguments)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        print(header(), flush=True)
        for name, row in compare_benchmarks(given, given.work or Path(temporary)):
            rows[name] = row
            print(line(name, row), flush=True)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    worst = min(min(row["acc"], row["acc_norm"]) for row in rows.values())
    return int(worst < LEAST_AGREEMENT)


if __name__ == "__main__":
    sys.exit(main())
