"""`gem eval suite`: a model's scores on the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gem_suite.engines import ENGINES
from gem_suite.runner_engine import CLUSTERS
from gemcore.cli.build_options import open_for_command, open_options, read_recipe
from gemcore.errors import GemError, UsageError

_FILE = click.Path(path_type=Path, dir_okay=False)


class _Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "NAME,…"

    def convert(self, value: Any, *_: Any) -> tuple[str, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


@click.command()
@open_options
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the benchmark data; GEM_DATA if not given.",
)
@click.option("--hub", is_flag=True, help="Take the data from the Hugging Face Hub instead.")
@click.option(
    "--benchmarks",
    "benchmark_files",
    multiple=True,
    type=_FILE,
    help="A TOML file of further benchmarks; may be repeated.",
)
@click.option("--domains", type=_Names(), default=(), help="Only these domains.")
@click.option("--tasks", type=_Names(), default=(), help="Only these tasks.")
@click.option("--limit", type=click.IntRange(1), help="The first so many items of each task.")
@click.option(
    "--shots", type=click.IntRange(0), help="Examples before each item; else as the task says."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of examples.")
@click.option("--chat-template", is_flag=True, help="Ask within the model's chat template.")
@click.option(
    "--no-calibration", is_flag=True, help="Leave out content-free prompts for classification."
)
@click.option(
    "--bits-only",
    is_flag=True,
    help="Score nothing but bits per byte of the right answers; several times faster.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="compiled",
    show_default=True,
    help="The compiled model, or its float32 weights in torch (much slower).",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that share the work, and the cores.",
)
@click.option(
    "--cluster",
    type=click.Choice(CLUSTERS),
    help="Have Ray spread the work: over the cluster at RAY_ADDRESS, or over this machine.",
)
@click.option("--restart", is_flag=True, help="Forget what an interrupted run has left.")
@click.option("-o", "--output", type=_FILE, required=True, help="The result file (JSON).")
def suite(
    *,
    recipe_file: Path | None,
    bundle: Path | None,
    strict: bool,
    data: Path | None,
    hub: bool,
    benchmark_files: tuple[Path, ...],
    domains: tuple[str, ...],
    tasks: tuple[str, ...],
    limit: int | None,
    shots: int | None,
    seed: int,
    chat_template: bool,
    no_calibration: bool,
    bits_only: bool,
    engine: str,
    workers: int,
    cluster: str | None,
    restart: bool,
    output: Path,
    **given: Any,
) -> None:
    """Ask a model the benchmarks and write what it scored.

    An interrupted run goes on where it was when the same command is given again.
    """
    from gem_suite.cli_progress import RunDisplay
    from gem_suite.cli_table import result_lines
    from gem_suite.folders import data_folder
    from gem_suite.runner import SuiteRun, run_suite
    from gem_suite.runner_engine import Workforce, compiled_work, float32_work
    from gem_suite.runner_tasks import SuiteSettings, suite_plans

    if hub and data is not None:
        raise UsageError("--hub and --data name two places for the data: give one of them")
    context = click.get_current_context()
    settings = SuiteSettings(
        data=None if hub else data_folder(data),
        benchmark_files=benchmark_files,
        domains=domains,
        tasks=tasks,
        limit=limit,
        shots=shots,
        seed=seed,
        chat_template=chat_template,
        calibrate=not no_calibration,
        bits_only=bits_only,
        no_plugins=bool(context.find_root().params.get("no_plugins")),
    )
    # Before a model is fetched or compiled for nothing.
    suite_plans(settings)
    recipe = read_recipe(recipe_file, given)
    session = None
    if engine == "compiled":
        session = open_for_command(recipe, bundle, strict=strict)
    elif bundle is not None:
        raise UsageError("--engine float32 needs the model itself: give --model, not --bundle")
    workforce = Workforce(workers=workers, threads=recipe.run.threads, cluster=cluster)
    if session is None:
        model, work = float32_work(recipe, settings, workforce)
    else:
        model, work = compiled_work(
            session, settings, workforce, context_length=recipe.run.context_length
        )
    run = SuiteRun(settings=settings, model=model, output=output, restart=restart)
    with RunDisplay() as display:
        results = run_suite(run, work, display)
    for line in result_lines(results):
        click.echo(line)
    _report_errors(results, output)


def _report_errors(results: dict[str, Any], output: Path) -> None:
    """End with an error where a task failed."""
    errors = results["errors"]
    if not errors:
        return
    for name, problem in errors.items():
        click.echo(f"{name}: {problem}", err=True)
    count = "1 task" if len(errors) == 1 else f"{len(errors)} tasks"
    raise GemError(
        f"{count} failed, the others are in {output}; correct the data and give the same command "
        "again, which repeats only what failed"
    )
