"""Precisions through the suite, one after the other; what is there already is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from gem_study.records import Measured
from gem_study.sources import file_name, model_size
from gem_suite.runner import SuiteRun, run_suite
from gem_suite.runner_engine import Workforce, compiled_work
from gem_suite.runner_tasks import SuiteSettings, load_planned, prepare, suite_plans
from gem_suite.store import journal_path
from gem_tradeoff.results import read_results
from gemcore import __version__
from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from gem_suite.runner import Progress
    from gem_suite.runner_model import ModelDescription
    from gemcore.recipe import Recipe
    from gemcore.session import Session


class Surroundings(Protocol):
    """What a run needs of whoever asked for it."""

    def open(self, recipe: Recipe) -> Session:
        """Compile a model where it is not compiled yet, and open it."""
        ...

    def say(self, sentence: str) -> None:
        """Tell the user what happens."""
        ...

    def progress(self) -> AbstractContextManager[Progress]:
        """Shows how a run of the suite goes on."""
        ...


@attrs.frozen(kw_only=True)
class StudyRun:
    """What to measure, and where the results go.

    Attributes:
        recipe: of every precision, apart from the quantizer.
        precisions: as `--quantizer` takes them, the reference first.
        settings: of the suite.
        workforce: who shares the work.
        folder: gets a result file for each precision; it is made where it is not there.
        restart: measure again what was measured already.
    """

    recipe: Recipe
    precisions: tuple[str, ...]
    settings: SuiteSettings
    workforce: Workforce
    folder: Path
    restart: bool = False


def run_precisions(run: StudyRun, surroundings: Surroundings) -> tuple[list[Measured], list[str]]:
    """Measure every precision.

    Each has a result file of its own, and a journal while it is measured. The same call goes on
    where it was interrupted, and leaves alone what was finished, provided that model, tasks and
    settings are the same.

    Returns:
        The precisions with their results, and tasks that failed, as sentences.

    Raises:
        UsageError: a precision, domain or task does not exist, or two precisions are one.
        GemError: a model cannot be compiled, or a file cannot be written.
    """
    recipes = checked_recipes(run)
    suite_plans(run.settings)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GemError(f"cannot make the folder {run.folder}: {error.strerror}") from error
    measured: list[Measured] = []
    problems: list[str] = []
    hashes: dict[str, str] | None = None
    for number, (label, recipe) in enumerate(recipes.items(), start=1):
        place = f"precision {number} of {len(recipes)}, {label}"
        surroundings.say(place)
        session = surroundings.open(recipe)
        output = run.folder / file_name(label)
        model, work = compiled_work(
            session, run.settings, run.workforce, context_length=recipe.run.context_length
        )
        if output.exists() and not run.restart and not journal_path(output).exists():
            hashes = _request_hashes(run.settings) if hashes is None else hashes
            finished = _is_finished(output, model, run.settings, hashes)
        else:
            finished = False
        if finished:
            surroundings.say(f"{place}: measured already, see {output}")
        else:
            suite = SuiteRun(settings=run.settings, model=model, output=output, restart=run.restart)
            with surroundings.progress() as progress:
                results = run_suite(suite, work, progress)
            problems += [f"{label}, {task}: {why}" for task, why in results["errors"].items()]
        measured.append(
            Measured(label=label, results=read_results(output), size=model_size(session.bundle))
        )
    return measured, problems


def checked_recipes(run: StudyRun) -> dict[str, Recipe]:
    """A recipe for each precision, all known to exist, so that no error comes after hours of work."""
    from gemcore.api import build_parts
    from gemcore.plugins import get_host

    host = get_host()
    recipes: dict[str, Recipe] = {}
    builds: dict[str, str] = {}
    for precision in run.precisions:
        recipe = run.recipe.with_changes(quantizer=precision)
        build = build_parts(recipe, host).names["quantizer"]
        if build in builds:
            raise UsageError(
                f"precisions '{builds[build]}' and '{precision}' are the same: name each one once"
            )
        builds[build] = precision
        recipes[precision] = recipe
    if len(recipes) < 2:
        raise UsageError(
            "the study sets precisions against the first one: name at least 2, for example "
            "--quantizers f16,q4a-g32"
        )
    names = [file_name(precision) for precision in recipes]
    if len(set(names)) < len(names):
        raise UsageError(f"two precisions would share a result file: {', '.join(sorted(names))}")
    return recipes


def _request_hashes(settings: SuiteSettings) -> dict[str, str]:
    """What would be asked today, by task; those that cannot be read are not there."""
    return dict(_hashes(settings))


def _hashes(settings: SuiteSettings) -> Iterator[tuple[str, str]]:
    for plan in suite_plans(settings):
        try:
            yield plan.name, prepare(load_planned(plan, settings)).requests_digest
        except GemError:
            continue


def _is_finished(
    output: Path, model: ModelDescription, settings: SuiteSettings, hashes: dict[str, str]
) -> bool:
    """Whether a file is what this run would write again."""
    try:
        found = json.loads(output.read_text(encoding="utf-8"))
        config = found["config"]
        return bool(
            found["errors"] == {}
            and found["gem_version"] == __version__
            and found["task_hashes"] == hashes
            and config["bundle"] == model.bundle
            and config["model_args"] == {"context_length": model.context_length}
            and all(config[name] == value for name, value in settings.options().items())
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def failure(problems: list[str], folder: Path) -> GemError:
    """The error at the end of a study of which some tasks failed."""
    count = "1 task" if len(problems) == 1 else f"{len(problems)} tasks"
    return GemError(
        f"{count} failed and the study leaves them out: {problems[0]}; correct that and give the "
        f"same command again, which repeats only what failed; the study is in {folder}"
    )
