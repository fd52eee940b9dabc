"""How long GEM takes to start: import, `--help`, listing plugins, and what 100 plugins cost.

    python benchmarks/startup.py [--repetitions 15] [--json]

Prints medians with the middle half of the measurements, in milliseconds of wall-clock time of whole
processes; for `import gemcore` also what Python's own `-X importtime` says of the import alone. The
variants take turns, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MANY = 100
PLUGIN = """from gemcore.hookspecs import hookimpl
from gemcore.records import RouterRecord

import click


@hookimpl
def gem_routers():
    yield RouterRecord(name="router-{number}", summary="a router", loader="{module}:Router")


@click.command()
def command():
    pass
"""


def install_plugins(folder: Path, count: int) -> None:
    """Write `count` installed distributions, each with a router and a command."""
    for number in range(count):
        module = f"gem_startup_{number}"
        (folder / f"{module}.py").write_text(PLUGIN.format(number=number, module=module))
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        name = module.replace("_", "-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[gem.plugins]\n{module} = {module}\n\n[gem.commands]\n{name} = {module}:command\n"
        )


def environment(folder: Path | None) -> dict[str, str]:
    """The environment of a measured process, with `folder` for PYTHONPATH."""
    values = {key: value for key, value in os.environ.items() if not key.startswith("GEM_")}
    if folder is not None:
        values["PYTHONPATH"] = str(folder)
    return values


def wall_time(arguments: list[str], folder: Path | None) -> float:
    """Milliseconds that one process takes."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env=environment(folder), capture_output=True, check=True
    )
    return (time.perf_counter() - start) * 1e3


def import_time(folder: Path | None) -> float:
    """Milliseconds that `import gemcore` takes, as `-X importtime` counts them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import gemcore"],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(re.findall(r"\| +(\d+) \| gemcore$", done.stderr, re.MULTILINE)[-1]) / 1e3


def measure(repetitions: int, folder: Path) -> dict[str, list[float]]:
    """All measurements, by what was measured."""
    gem = ["-m", "gemcore"]
    variants: dict[str, tuple[list[str], Path | None]] = {
        "python -c pass": (["-c", "pass"], None),
        "python -c 'import gemcore'": (["-c", "import gemcore"], None),
        "gem --help": ([*gem, "--help"], None),
        "gem plugins list": ([*gem, "plugins", "list"], None),
        f"gem --help, {MANY} plugins": ([*gem, "--help"], folder),
        f"gem plugins list, {MANY} plugins": ([*gem, "plugins", "list"], folder),
    }
    times: dict[str, list[float]] = {"import gemcore (-X importtime)": []}
    times |= {name: [] for name in variants}
    for repetition in range(repetitions + 1):
        found = {"import gemcore (-X importtime)": import_time(None)}
        found |= {name: wall_time(*variant) for name, variant in variants.items()}
        # The first round fills the caches of file system and bytecode.
        for name, value in found.items() if repetition else ():
            times[name].append(value)
    return times


def quartiles(values: list[float]) -> tuple[float, float]:
    """First and third quartile."""
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How long GEM takes to start.")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install_plugins(Path(folder), MANY)
        times = measure(max(arguments.repetitions, 2), Path(folder))
    medians = {name: statistics.median(values) for name, values in times.items()}
    if arguments.json:
        rows = {
            name: {
                "median_ms": medians[name],
                "quartiles_ms": quartiles(values),
                "runs": len(values),
            }
            for name, values in times.items()
        }
        print(json.dumps(rows, indent=2))
        return
    for name, values in times.items():
        low, high = quartiles(values)
        print(f"{name:<34} {medians[name]:7.1f} ms   ({low:.1f} to {high:.1f})")
    extra = medians[f"gem --help, {MANY} plugins"] - medians["gem --help"]
    print(f"{MANY} plugins cost gem --help {extra:.1f} ms")


if __name__ == "__main__":
    main()
