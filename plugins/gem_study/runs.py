"""The precisions of a study of compression, through the suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from gem_study.records import Measured, ModelSize
from gem_study.subjects import Bench, Subject, Surroundings, check_names, measure_all
from gem_suite.runner_engine import Workforce
from gem_suite.runner_tasks import SuiteSettings, suite_plans
from gem_tradeoff.results import read_results
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gemcore.recipe import Recipe


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
    """Measure every precision; see `gem_study.subjects.measure_all`.

    Returns:
        The precisions with their results, and tasks that failed, as sentences.

    Raises:
        UsageError: a precision, domain or task does not exist, or two precisions are one.
        GemError: a model cannot be compiled, or a file cannot be written.
    """
    recipes = checked_recipes(run)
    suite_plans(run.settings)
    bench = Bench(
        settings=run.settings, workforce=run.workforce, folder=run.folder, restart=run.restart
    )
    subjects = [Subject(label=label, recipe=recipe) for label, recipe in recipes.items()]
    measurements, problems = measure_all(subjects, bench, surroundings, "precision")
    measured = [
        Measured(
            label=one.label,
            results=read_results(one.output),
            size=ModelSize(
                bytes=one.model.weights_bytes, bits_per_weight=one.model.bits_per_weight
            ),
        )
        for one in measurements
    ]
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
    check_names([Subject(label=label, recipe=r) for label, r in recipes.items()], "precision")
    return recipes
