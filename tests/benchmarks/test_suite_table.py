"""The table of scores, from result files."""

from __future__ import annotations

from suite_table import table


def result(domain: str, metric: str, value: float, task_type: str = "multiple_choice") -> dict:
    config = {"domain": domain, "main_metric": metric, "chance": 0.25, "task_type": task_type}
    scores = {f"{metric},none": value, f"{metric}_stderr,none": 0.05, "bits_per_byte,none": 1.5}
    return {"config": config, "scores": scores}


def file(**tasks: dict) -> dict:
    return {
        "results": {name: task["scores"] for name, task in tasks.items()},
        "configs": {name: task["config"] for name, task in tasks.items()},
    }


def test_rows_are_by_domain_and_the_last_file_counts() -> None:
    first = file(
        zoology=result("stem", "acc", 0.1),
        corpus_law=result("law", "bits_per_byte", 1.5, "corpus"),
        treaties=result("law", "acc_norm", 0.4),
        prose=result("stem", "bits_per_byte", 1.5, "lm_perplexity"),
    )
    rows = table([first, file(zoology=result("stem", "acc", 0.5))]).splitlines()
    assert rows[2:] == [
        "| law | treaties | `acc_norm` | 0.400 ± 0.098 | 0.250 | 1.500 |",
        "| stem | prose | `bits_per_byte` | 1.500 ± 0.098 |  | 1.500 |",
        "| stem | zoology | `acc` | 0.500 ± 0.098 | 0.250 | 1.500 |",
    ]
