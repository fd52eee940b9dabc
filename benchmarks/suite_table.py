"""The table of scores in docs/benchmark-suite.md, from result files of `gem eval suite`.

    python benchmarks/suite_table.py base.json

Of a task that is in several files, the last one counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = "| domain | benchmark | metric | score | chance | bits per byte |"
ERRORS = 1.96
"""Standard errors on each side of a score: an interval of 95 %."""


def row(name: str, configuration: dict[str, Any], result: dict[str, Any]) -> str:
    """One task as a line of a Markdown table."""
    metric, chance = configuration["main_metric"], configuration["chance"]
    error = ERRORS * result[f"{metric}_stderr,none"]
    level = "" if metric == "bits_per_byte" else f"{chance:.3f}"
    cells = [
        configuration["domain"],
        name,
        f"`{metric}`",
        f"{result[f'{metric},none']:.3f} ± {error:.3f}",
        level,
        f"{result['bits_per_byte,none']:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(files: Iterable[dict[str, Any]]) -> str:
    """The tasks of result files by domain and name, without held-out corpora."""
    results: dict[str, Any] = {}
    configurations: dict[str, Any] = {}
    for file in files:
        results |= file["results"]
        configurations |= file["configs"]
    names = [name for name in results if configurations[name]["task_type"] != "corpus"]
    names.sort(key=lambda name: (configurations[name]["domain"], name))
    rows = [row(name, configurations[name], results[name]) for name in names]
    return "\n".join([HEAD, "|" + " --- |" * 6, *rows])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    given = parser.parse_args()
    print(table(json.loads(path.read_text(encoding="utf-8")) for path in given.results))


if __name__ == "__main__":
    main()
