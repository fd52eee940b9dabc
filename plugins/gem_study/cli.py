"""`gem study compression`: how compressing a model moves each domain."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gem_suite.runner_engine import CLUSTERS
from gemcore.cli.build_options import open_for_command, read_recipe
from gemcore.cli.main import PluginGroup
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gem_study.records import Measured, Study
    from gem_suite.runner import Progress
    from gem_suite.runner_tasks import SuiteSettings
    from gemcore.recipe import Recipe
    from gemcore.session import Session

PRECISIONS = "f16,q8-g32,q4a-g32,q4s-g32"
# As in gem_tradeoff.bootstrap, whose NumPy `--help` need not load.
RESAMPLES = 2000

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


class _Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "NAME,…"

    def convert(self, value: Any, *_: Any) -> tuple[str, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


@click.group(cls=PluginGroup)
def study() -> None:
    """Measure several models and say what their difference is."""


@study.command()
@click.argument("files", nargs=-1, type=_FILE, metavar="[RESULTS.json…]")
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
@click.option("-m", "--model", help="A known name, a .gguf file, a Hugging Face folder or Hub id.")
@click.option("--recipe", "recipe_file", type=_FILE, help="A TOML file with more settings.")
@click.option("--kv-cache", help="How keys and values are cached: 'f16' or 'q8'.")
@click.option("--threads", type=int, help="Threads that compute; by default all cores.")
@click.option("--context-length", type=int, help="The most tokens that are read together.")
@click.option("--strict", is_flag=True, help="Fail where a weight cannot be quantized as asked.")
@click.option("--data", type=_FOLDER, help="The folder of the benchmark data; else GEM_DATA.")
@click.option("--domains", type=_Names(), default=(), help="Only these domains.")
@click.option("--tasks", type=_Names(), default=(), help="Only these tasks.")
@click.option("--limit", type=click.IntRange(2), help="The first so many items of each task.")
@click.option("--shots", type=click.IntRange(0), help="Examples before each item.")
@click.option("--chat-template", is_flag=True, help="Ask within the model's chat template.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Share the work."
)
@click.option("--cluster", type=click.Choice(CLUSTERS), help="Have Ray spread the work.")
@click.option("--restart", is_flag=True, help="Measure again what was measured already.")
@click.option(
    "--variant",
    "variants",
    type=click.Choice(["task", "answer", "text"]),
    multiple=True,
    default=("task", "answer", "text"),
    show_default=True,
    help="Scores of tasks, bits per byte of right answers, or of held-out text.",
)
@click.option("--leave-out", type=_Names(), default=(), help="Tasks not to count.")
@click.option(
    "--bytes",
    "sizes",
    type=_Names(),
    default=(),
    help="With --from: bytes of each model's weights.",
)
@click.option(
    "--resamples",
    type=click.IntRange(100, 100_000),
    default=RESAMPLES,
    show_default=True,
    help="Bootstrap resamples of the items.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of examples and resamples.",
)
@click.option("-o", "--output", type=_FOLDER, required=True, help="The folder of the results.")
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
            settings=_settings(
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
        measured, problems = run_precisions(run, _Terminal(strict=strict))
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
        from gem_study.runs import failure

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


def _settings(data: Path | None, **options: Any) -> SuiteSettings:
    from gem_suite.folders import data_folder
    from gem_suite.runner_tasks import SuiteSettings

    root = click.get_current_context().find_root()
    no_plugins = bool(root.params.get("no_plugins"))
    return SuiteSettings(data=data_folder(data), no_plugins=no_plugins, **options)


def _bytes(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise UsageError(
            f"--bytes '{word}' is no number of bytes: write whole numbers, as 270000000"
        )
    return int(word)


class _Terminal:
    """What a run needs of the command line; see `gem_study.runs.Surroundings`."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict

    def open(self, recipe: Recipe) -> Session:
        """Compile and open a model, with a display."""
        return open_for_command(recipe, None, strict=self._strict)

    def say(self, sentence: str) -> None:
        """Write a line to stderr."""
        click.echo(sentence, err=True)

    def progress(self) -> AbstractContextManager[Progress]:
        """The display of `gem eval suite`."""
        from gem_suite.cli_progress import RunDisplay

        return RunDisplay()


def _write(found: Study, folder: Path) -> None:
    """Write the files, and the study to the terminal."""
    import json

    from gem_study.page import study_page
    from gem_study.text import study_lines
    from gem_tradeoff.cli import write_text
    from gemcore.errors import GemError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GemError(f"cannot make the folder {folder}: {error.strerror}") from error
    content = json.dumps(found.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(folder / "study.json", content)
    write_text(folder / "study.html", study_page(found))
    # No colour where NO_COLOR asks for none (https://no-color.org); else as click decides.
    colour = False if os.environ.get("NO_COLOR") else None
    for line in study_lines(found, shutil.get_terminal_size().columns):
        click.echo(line, color=colour)
