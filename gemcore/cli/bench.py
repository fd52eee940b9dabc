"""`gem bench`: how fast a compiled model is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.build_options import open_for_command, open_options, read_recipe

if TYPE_CHECKING:
    from gemcore.benchmark import BenchmarkResult, Spread


@click.command()
@open_options
@click.option("--prompt-tokens", type=int, default=256, show_default=True)
@click.option("--new-tokens", type=int, default=64, show_default=True)
@click.option("--repetitions", type=int, default=5, show_default=True)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, with the versions of everything."
)
def bench(
    *,
    recipe_file: Path | None,
    bundle: Path | None,
    strict: bool,
    prompt_tokens: int,
    new_tokens: int,
    repetitions: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Time prefill and decode: medians of several repetitions after a warm-up."""
    from gemcore.benchmark import measure
    from gemcore.build import manifest_summary
    from gemcore.runtime.tvm_runtime import usable_cores

    recipe = read_recipe(recipe_file, given)
    session = open_for_command(recipe, bundle, strict=strict)
    result = measure(
        session,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        threads=recipe.run.threads or usable_cores(),
        repetitions=repetitions,
    )
    summary = manifest_summary(session.bundle)
    if as_json:
        versions = dict(session.bundle.manifest.versions)
        click.echo(json.dumps({**summary, **result.to_json(), "versions": versions}, indent=2))
        return
    click.echo(
        f"{summary['model']}, quantizer {summary['quantizer']}, router {summary['router']}, "
        f"target {summary['target']}, {result.threads} threads, {repetitions} repetitions"
    )
    for line in bench_table(result):
        click.echo(line)


def bench_table(result: BenchmarkResult) -> list[str]:
    """The results as lines of text: median, and lowest and highest behind it."""

    def row(name: str, unit: str, spread: Spread) -> str:
        extremes = f"({spread.lowest:.1f} to {spread.highest:.1f})"
        return f"{name:<22} {spread.median:9.1f} {unit:<9} {extremes}"

    return [
        row(f"prefill, {result.prompt_tokens} tokens", "tokens/s", result.prefill),
        row(f"decode, {result.new_tokens} tokens", "tokens/s", result.decode),
        row("time to first token", "ms", result.ttft),
        f"{'peak memory':<22} {result.peak_memory:9.1f} MB",
    ]
