"""`gem study compression`: how compressing a model moves each domain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gem_study.cli_options import (
    FILE,
    Names,
    Terminal,
    colour,
    model_options,
    result_options,
    run_options,
    suite_settings,
    terminal_width,
    write_study,
)
from gem_study.cli_preservation import preservation
from gem_study.cli_routing import routing
from gemcore.cli.build_options import read_recipe
from gemcore.cli.main import PluginGroup
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gem_study.records import Measured, Study

PRECISIONS = "f16,q8-g32,q4a-g32,q4s-g32"


@click.group(cls=PluginGroup)
def study() -> None:
    """Measure several models and say what their difference is."""


study.add_command(preservation)
study.add_command(routing)


@study.command()
@click.argument("files", nargs=-1, type=FILE, metavar="[RESULTS.json…]")
@click.option(
    "--from",
    "from_files",
    is_flag=True,
    help="Run nothing: the RESULTS are there, reference first.",
)
@click.option(
    "--quantizers",
    default=PRECISIONS,
    show_default=True,
    help="The precisions, each as `gem run -q` takes it; the first is the reference.",
)
@model_options
@run_options
@click.option(
    "--variant",
    "variants",
    type=click.Choice(["task", "answer", "text"]),
    multiple=True,
    default=("task", "answer", "text"),
    show_default=True,
    help="Scores of tasks, bits per byte of right answers, or of held-out text.",
)
@click.option("--leave-out", type=Names(), default=(), help="Tasks not to count.")
@click.option(
    "--bytes",
    "sizes",
    type=Names(),
    default=(),
    help="With --from: bytes of each model's weights.",
)
@result_options
def compression(
    *,
    files: tuple[Path, ...],
    from_files: bool,
    quantizers: str,
    recipe_file: Path | None,
    strict: bool,
    data: Path | None,
    domains: tuple[str, ...],
    tasks: tuple[str, ...],
    limit: int | None,
    shots: int | None,
    chat_template: bool,
    workers: int,
    cluster: str | None,
    restart: bool,
    variants: tuple[str, ...],
    leave_out: tuple[str, ...],
    sizes: tuple[str, ...],
    resamples: int,
    seed: int,
    output: Path,
    **given: Any,
) -> None:
    """Put a model through the suite in several precisions, and show what compression cost where.

    Writes a result file for each precision, study.json and study.html. An interrupted study goes on
    where it was when the same command is given again.
    """
    _check(files, from_files=from_files, sizes=sizes)
    from gem_study.analysis import study_compression

    problems: list[str] = []
    measured: tuple[Measured, ...] | list[Measured]
    if from_files:
        from gem_study.sources import read_measured

        measured = read_measured(files, [_bytes(size) for size in sizes])
    else:
        from gem_study.runs import StudyRun, run_precisions
        from gem_study.sources import split_precisions
        from gem_suite.runner_engine import Workforce

        recipe = read_recipe(recipe_file, given)
        run = StudyRun(
            recipe=recipe,
            precisions=split_precisions(quantizers),
            settings=suite_settings(
                data,
                domains=domains,
                tasks=tasks,
                limit=limit,
                shots=shots,
                seed=seed,
                chat_template=chat_template,
            ),
            workforce=Workforce(workers=workers, threads=recipe.run.threads, cluster=cluster),
            folder=output,
            restart=restart,
        )
        measured, problems = run_precisions(run, Terminal(strict=strict))
    found = study_compression(
        measured,
        variants=variants,
        domains=domains or None,
        leave_out=leave_out,
        resamples=resamples,
        seed=seed,
    )
    _write(found, output)
    if problems:
        from gem_study.subjects import failure

        raise failure(problems, output)


def _check(files: tuple[Path, ...], *, from_files: bool, sizes: tuple[str, ...]) -> None:
    """What can be known to be wrong before anything is done."""
    if files and not from_files:
        raise UsageError(
            f"'{files[0]}' is one word too many: write --from before result files that exist already"
        )
    if from_files and len(files) < 2:
        raise UsageError(
            f"--from needs at least 2 result files, the reference's first, and there is {len(files)}"
        )
    if sizes and not from_files:
        raise UsageError("--bytes is for --from: a study that runs the models knows their sizes")


def _bytes(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise UsageError(
            f"--bytes '{word}' is no number of bytes: write whole numbers, as 270000000"
        )
    return int(word)


def _write(found: Study, folder: Path) -> None:
    """Write the files, and the study to the terminal."""
    from gem_study.page import study_page
    from gem_study.text import study_lines

    write_study(found.to_json(), study_page(found), folder)
    for line in study_lines(found, terminal_width()):
        click.echo(line, color=colour())
