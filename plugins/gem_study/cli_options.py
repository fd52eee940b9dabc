"""What the commands of `gem study` share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gem_suite.runner_engine import CLUSTERS
from gemcore.cli.build_options import open_for_command

if TYPE_CHECKING:
    from gem_study.report import Report
    from gem_suite.runner import Progress
    from gem_suite.runner_tasks import SuiteSettings
    from gemcore.recipe import Recipe
    from gemcore.session import Session

Command = TypeVar("Command", bound=Callable[..., Any])

# As in gem_tradeoff.bootstrap, whose NumPy `--help` need not load.
RESAMPLES = 2000

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


class Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "NAME,…"

    def convert(self, value: Any, *_: Any) -> tuple[str, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


def _together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_options = _together(
    click.option(
        "-m", "--model", help="A known name, a .gguf file, a Hugging Face folder or Hub id."
    ),
    click.option("--recipe", "recipe_file", type=FILE, help="A TOML file with more settings."),
    click.option("--kv-cache", help="How keys and values are cached: 'f16' or 'q8'."),
    click.option("--threads", type=int, help="Threads that compute; by default all cores."),
    click.option("--context-length", type=int, help="The most tokens that are read together."),
    click.option(
        "--strict", is_flag=True, help="Fail where a weight cannot be quantized as asked."
    ),
)
"""What is measured, apart from what a study varies."""

run_options = _together(
    click.option("--data", type=FOLDER, help="The folder of the benchmark data; else GEM_DATA."),
    click.option("--domains", type=Names(), default=(), help="Only these domains."),
    click.option("--tasks", type=Names(), default=(), help="Only these tasks."),
    click.option("--limit", type=click.IntRange(2), help="The first so many items of each task."),
    click.option("--shots", type=click.IntRange(0), help="Examples before each item."),
    click.option("--chat-template", is_flag=True, help="Ask within the model's chat template."),
    click.option(
        "--workers", type=click.IntRange(1), default=1, show_default=True, help="Share the work."
    ),
    click.option("--cluster", type=click.Choice(CLUSTERS), help="Have Ray spread the work."),
    click.option("--restart", is_flag=True, help="Measure again what was measured already."),
)
"""How the suite is run."""

result_options = _together(
    click.option(
        "--resamples",
        type=click.IntRange(100, 100_000),
        default=RESAMPLES,
        show_default=True,
        help="Bootstrap resamples of the items.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Of examples and resamples.",
    ),
    click.option("-o", "--output", type=FOLDER, required=True, help="The folder of the results."),
)
"""What is made of the results, and where it goes."""


def suite_settings(data: Path | None, **options: Any) -> SuiteSettings:
    """The settings of a run of the suite, for a command."""
    from gem_suite.folders import data_folder
    from gem_suite.runner_tasks import SuiteSettings

    root = click.get_current_context().find_root()
    no_plugins = bool(root.params.get("no_plugins"))
    return SuiteSettings(data=data_folder(data), no_plugins=no_plugins, **options)


class Terminal:
    """What a run needs of the command line; see `gem_study.subjects.Surroundings`."""

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


def colour() -> bool | None:
    """No colour where NO_COLOR asks for none (https://no-color.org); else as click decides."""
    return False if os.environ.get("NO_COLOR") else None


def terminal_width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size().columns


def write_study(values: dict[str, Any], page: str, folder: Path) -> None:
    """Write `study.json` and `study.html`; GemError where they cannot be written."""
    import json

    from gem_tradeoff.cli import write_text
    from gemcore.errors import GemError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GemError(f"cannot make the folder {folder}: {error.strerror}") from error
    content = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(folder / "study.json", content)
    write_text(folder / "study.html", page)


def write_report(values: dict[str, Any], report: Report, folder: Path) -> None:
    """Write the files of a study, and its tables to the terminal."""
    from gem_study.report import report_lines, report_page

    write_study(values, report_page(report), folder)
    for line in report_lines(report):
        click.echo(line, color=colour())
