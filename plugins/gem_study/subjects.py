"""Models through the suite, one after the other; what is there already is not done again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import attrs

from gem_study.sources import file_name
from gem_suite.runner import SuiteRun, run_suite
from gem_suite.runner_engine import compiled_work, float32_work
from gem_suite.runner_tasks import load_planned, prepare, suite_plans
from gem_suite.store import journal_path
from gemcore import __version__
from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from gem_suite.runner import Progress
    from gem_suite.runner_engine import Workforce
    from gem_suite.runner_model import ModelDescription
    from gem_suite.runner_tasks import SuiteSettings
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
class Subject:
    """A model that is to be measured.

    Attributes:
        label: what messages and the result file call it.
        recipe: how it is made.
        engine: "compiled", or "float32" for the weights in torch.
    """

    label: str
    recipe: Recipe
    engine: str = "compiled"


@attrs.frozen(kw_only=True)
class Measurement:
    """A model that was measured: where its results are, and what the run says of it."""

    label: str
    output: Path
    model: ModelDescription


@attrs.frozen(kw_only=True)
class Bench:
    """How models are measured.

    Attributes:
        settings: of the suite.
        workforce: who shares the work.
        folder: gets a result file for each model; it is made where it is not there.
        restart: measure again what was measured already.
    """

    settings: SuiteSettings
    workforce: Workforce
    folder: Path
    restart: bool = False


def check_names(subjects: Sequence[Subject], kind: str) -> None:
    """Raise UsageError where two models would share a result file."""
    names = [file_name(subject.label) for subject in subjects]
    if len(set(names)) < len(names):
        raise UsageError(f"two {kind}s would share a result file: {', '.join(sorted(names))}")


def measure_all(
    subjects: Sequence[Subject], bench: Bench, surroundings: Surroundings, kind: str = "model"
) -> tuple[list[Measurement], list[str]]:
    """Measure every model.

    Each has a result file of its own, and a journal while it is measured. The same call goes on
    where it was interrupted, and leaves alone what was finished, provided that model, tasks and
    settings are the same.

    Returns:
        What was measured, and tasks that failed, as sentences.

    Raises:
        UsageError: a domain or task does not exist.
        GemError: a model cannot be compiled, or a file cannot be written.
    """
    settings = bench.settings
    suite_plans(settings)
    try:
        bench.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GemError(f"cannot make the folder {bench.folder}: {error.strerror}") from error
    measured: list[Measurement] = []
    problems: list[str] = []
    hashes: dict[str, str] | None = None
    for number, subject in enumerate(subjects, start=1):
        place = f"{kind} {number} of {len(subjects)}, {subject.label}"
        surroundings.say(place)
        output = bench.folder / file_name(subject.label)
        if subject.engine == "float32":
            model, work = float32_work(subject.recipe, settings, bench.workforce)
        else:
            model, work = compiled_work(
                surroundings.open(subject.recipe),
                settings,
                bench.workforce,
                context_length=subject.recipe.run.context_length,
            )
        finished = False
        if output.exists() and not bench.restart and not journal_path(output).exists():
            hashes = dict(_hashes(settings)) if hashes is None else hashes
            finished = _is_finished(output, model, settings, hashes)
        if finished:
            surroundings.say(f"{place}: measured already, see {output}")
        else:
            run = SuiteRun(settings=settings, model=model, output=output, restart=bench.restart)
            with surroundings.progress() as progress:
                results = run_suite(run, work, progress)
            problems += [
                f"{subject.label}, {task}: {why}" for task, why in results["errors"].items()
            ]
        measured.append(Measurement(label=subject.label, output=output, model=model))
    return measured, problems


def _hashes(settings: SuiteSettings) -> Iterator[tuple[str, str]]:
    """What would be asked today, by task; those that cannot be read are not there."""
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
            and config.get("identity", config["bundle"]) == model.identity
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
