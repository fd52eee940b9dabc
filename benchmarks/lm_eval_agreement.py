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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

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
    prompts: dict[str, dict[str, Any]] = {
        "hellaswag": _hellaswag,
        "winogrande": _winogrande,
    }.get(name, lambda: {"doc_to_text": QUESTION})()
    if name == "openbookqa":
        prompts = {"doc_to_text": "{{question}}"}
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


def harness_items(
    folder: Path, files: dict[str, Path], limit: int, cache: Path, batch_size: int
) -> dict[str, list[dict[str, Any]]]:
    """The harness's own samples, by benchmark, from its Hugging Face backend on the processor."""
    from lm_eval import simple_evaluate

    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=[harness_task(name, path, cache) for name, path in files.items()],
        batch_size=batch_size,
        device="cpu",
        limit=limit,
        bootstrap_iters=0,
    )
    samples = results["samples"]
    return {
        name: sorted(samples[f"local_{name}"], key=lambda sample: int(sample["doc_id"]))
        for name in files
    }


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


def compare_benchmarks(given: argparse.Namespace, work: Path) -> dict[str, dict[str, Any]]:
    """Run both sides and compare them, by benchmark."""
    import torch
    from peer_comparison.source import export_model

    from gem_suite.catalog import builtin_benchmarks, by_name
    from gem_suite.engines_eager import EagerEngine
    from gem_suite.prompts import continuation_texts
    from gem_suite.runner_answers import answer_requests
    from gem_suite.tasks import load_task, plan_tasks
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host

    torch.set_num_threads(given.threads)
    plans = plan_tasks(by_name(builtin_benchmarks()), given.data, names=given.tasks)
    files = {plan.name: plan.folder.test for plan in plans if plan.folder is not None}
    exported = export_model(given.model, work)
    samples = harness_items(
        exported.folder, files, given.limit, work / "datasets", given.batch_size
    )
    checkpoint = load_checkpoint(given.model, get_host())
    engine = EagerEngine(checkpoint, threads=given.threads)
    rows: dict[str, dict[str, Any]] = {}
    for plan in plans:
        task = load_task(plan, limit=given.limit, shots=0, calibrate=False)
        requests = [task.request(document) for document in task.documents]
        answers = answer_requests(engine, requests)
        lengths = [
            tuple(map(len, continuation_texts(task.benchmark.prompt, document)))
            for document in task.documents
        ]
        ours = [
            Item(pairs=request.pairs, likelihoods=answer.outcome.likelihoods, lengths=length)
            for request, answer, length in zip(requests, answers, lengths, strict=True)
        ]
        theirs = [
            Item(
                pairs=tuple((context, text) for context, text in sample["arguments"]),
                likelihoods=tuple(float(value) for value, _ in sample["filtered_resps"]),
                lengths=length,
            )
            for sample, length in zip(samples[plan.name], lengths, strict=True)
        ]
        gold = [document.gold for document in task.documents]
        rows[plan.name] = compare(theirs, ours) | {
            "accuracy_harness": float(np.mean([sample["acc"] for sample in samples[plan.name]])),
            "accuracy_gem": float(
                np.mean([item.choices[0] == right for item, right in zip(ours, gold, strict=True)])
            ),
        }
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The comparison as text."""
    lines = [
        "benchmark       items  same prompt  same acc  same acc_norm  largest difference  acc: lm-eval, GEM"
    ]
    for name, row in rows.items():
        lines.append(
            f"{name:15s} {row['items']:5d} {row['prompts']:11.1%} {row['acc']:9.1%} "
            f"{row['acc_norm']:13.1%} {row['difference']:16.2e} nat "
            f"{row['accuracy_harness']:13.3f} {row['accuracy_gem']:6.3f}"
        )
    return "\n".join(lines)


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
    with tempfile.TemporaryDirectory() as temporary:
        rows = compare_benchmarks(given, given.work or Path(temporary))
    print(table(rows))
    if given.output:
        given.output.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    worst = min(min(row["acc"], row["acc_norm"]) for row in rows.values())
    return int(worst < LEAST_AGREEMENT)


if __name__ == "__main__":
    sys.exit(main())
