"""The result file: scored items and what a reader must know, under lm-eval's field names."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gemcore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gem_suite.runner_model import ModelDescription
    from gem_suite.runner_tasks import PreparedTask
    from gem_suite.runner_worker import Record


def suite_results(
    model: ModelDescription,
    options: Mapping[str, Any],
    tasks: Mapping[str, PreparedTask],
    records: Mapping[str, Sequence[Record]],
    errors: Mapping[str, str],
    *,
    seconds: float,
) -> dict[str, Any]:
    """The content of a result file.

    Args:
        model: what was measured.
        options: of the run.
        tasks: those that are complete, in order.
        records: of each of them, all items in order.
        errors: why other tasks are missing.
        seconds: that the run took.

    Returns:
        Fields as in lm-eval's result files, and `errors`, `truncated` (texts of each task that lost
        their beginning to the context) and `gem_version`.
    """
    samples = {name: [dict(record.sample) for record in records[name]] for name in tasks}
    benchmarks = {name: prepared.task.benchmark for name, prepared in tasks.items()}
    return {
        "results": {name: tasks[name].task.results(samples[name]) for name in tasks},
        "configs": {name: prepared.task.config() for name, prepared in tasks.items()},
        "versions": {name: benchmark.version for name, benchmark in benchmarks.items()},
        "n-samples": {name: prepared.task.sample_counts() for name, prepared in tasks.items()},
        "higher_is_better": {
            name: prepared.task.higher_is_better() for name, prepared in tasks.items()
        },
        "task_hashes": {name: prepared.requests_digest for name, prepared in tasks.items()},
        "truncated": {name: sum(record.cut for record in records[name]) for name in tasks},
        "config": {
            "model": model.name,
            "model_args": {"context_length": model.context_length},
            **options,
            "recipe": dict(model.recipe),
            "bundle": model.bundle,
            "identity": model.identity,
            "engine": model.engine,
            "weights_bytes": model.weights_bytes,
            "bits_per_weight": model.bits_per_weight,
            **({"experts": dict(model.experts)} if model.experts else {}),
        },
        "git_hash": git_hash(),
        "date": int(time.time()),
        "total_evaluation_time_seconds": f"{seconds:.1f}",
        "gem_version": gemcore.__version__,
        "errors": dict(errors),
        "samples": samples,
    }


def git_hash(folder: Path | None = None) -> str | None:
    """The commit that GEM is run from; None where it is not run from a git checkout."""
    root = folder or Path(gemcore.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
