"""`gem eval suite`: a model's scores on the benchmarks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gem_suite.engines import ENGINES
from gemcore.cli.build_options import open_for_command, open_options, read_recipe
from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from gem_suite.runner import Work
    from gem_suite.runner_model import ModelDescription
    from gem_suite.runner_tasks import SuiteSettings
    from gemcore.recipe import Recipe
    from gemcore.session import Session

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
    engine: str,
    workers: int,
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
    model, work = _engine(recipe, session, settings, workers)
    run = SuiteRun(settings=settings, model=model, output=output, restart=restart)
    with RunDisplay() as display:
        results = run_suite(run, work, display)
    for line in result_lines(results):
        click.echo(line)
    _report_errors(results, output)


def _engine(
    recipe: Recipe, session: Session | None, settings: SuiteSettings, workers: int
) -> tuple[ModelDescription, Work]:
    """What is measured, and the function that does pieces of work."""
    from gem_suite.engines import CompiledEngine, EngineChoice
    from gem_suite.runner import work_here
    from gem_suite.runner_model import describe_bundle, describe_checkpoint

    threads, context_length = recipe.run.threads, recipe.run.context_length
    if session is not None:
        model = describe_bundle(session.bundle, session.context_length)
        choice = EngineChoice(
            name="compiled",
            bundle=session.bundle.folder,
            context_length=context_length,
            no_plugins=settings.no_plugins,
        )
        if workers == 1:
            return model, work_here(CompiledEngine(session), settings)
    else:
        from gemcore.models.sources import load_checkpoint
        from gemcore.plugins import get_host

        checkpoint = load_checkpoint(recipe.model, get_host())
        model = describe_checkpoint(checkpoint, context_length)
        choice = EngineChoice(
            name="float32",
            model=recipe.model,
            context_length=context_length,
            no_plugins=settings.no_plugins,
        )
        if workers == 1:
            from gem_suite.engines_eager import EagerEngine

            eager = EagerEngine(checkpoint, threads=threads, context_length=context_length)
            return model, work_here(eager, settings)
    from gem_suite.runner_pool import WorkerSetup, work_in_processes

    cores = threads or _usable_cores()
    setup = WorkerSetup(choice=choice, settings=settings, threads=max(1, cores // workers))
    return model, lambda pieces, tasks: work_in_processes(pieces, setup, workers)


def _usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
