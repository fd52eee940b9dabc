"""`gem study routing`: what routers lose against one that knows the label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gem_study.cli_options import (
    FILE,
    Names,
    Terminal,
    model_options,
    result_options,
    run_options,
    suite_settings,
    write_report,
)
from gemcore.cli.build_options import read_recipe
from gemcore.errors import UsageError

ROUTERS = "scar,prompt,arrow"


@click.command()
@click.argument("files", nargs=-1, type=FILE, metavar="[RESULTS.json…]")
@click.option(
    "--from", "from_files", is_flag=True, help="Run nothing: the RESULTS are there, in any order."
)
@click.option(
    "--routers",
    default=ROUTERS,
    show_default=True,
    help="What to measure, each as `gem run --router` takes it; base and oracle come by themselves.",
)
@click.option("--experts", metavar="SET", help="The set of experts: its name, or a folder.")
@click.option(
    "--singles",
    is_flag=True,
    help="Measure each expert of the set always on, too, for the best one.",
)
@click.option("-q", "--quantizer", help="How weights are stored, for example 'q4a-g32'.")
@click.option(
    "--left-out",
    type=Names(),
    default=(),
    help="Benchmarks that experts and routers were not trained on.",
)
@click.option(
    "--prior-only",
    is_flag=True,
    help="Ask for the prior of each prompt alone: macro-F1 without bits per byte, much faster.",
)
@model_options
@run_options
@result_options
def routing(
    *,
    files: tuple[Path, ...],
    from_files: bool,
    routers: str,
    experts: str | None,
    singles: bool,
    left_out: tuple[str, ...],
    prior_only: bool,
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
    resamples: int,
    seed: int,
    output: Path,
    **given: Any,
) -> None:
    """Measure routers between the base model and an oracle that knows each item's domain.

    Writes a result file for each router, study.json and study.html. An interrupted study goes on
    where it was when the same command is given again.
    """
    if files and not from_files:
        raise UsageError(
            f"'{files[0]}' is one word too many: write --from before result files that exist already"
        )
    if from_files and prior_only:
        raise UsageError("--prior-only runs the models, and --from runs nothing: give one of them")
    from gem_study.routing import study_routing
    from gem_study.routing_report import routing_report
    from gem_study.routing_runs import read_routed, router_subjects, run_routers, without_corpora
    from gem_study.sources import split_precisions

    problems: list[str] = []
    if from_files:
        found = read_routed(files)
    else:
        from gem_study.subjects import Bench
        from gem_suite.runner_engine import Workforce

        recipe = read_recipe(recipe_file, given)
        settings = without_corpora(
            suite_settings(
                data,
                domains=domains,
                tasks=tasks,
                limit=limit,
                shots=shots,
                seed=seed,
                chat_template=chat_template,
                bits_only=True,
            )
        )
        _check_left_out(left_out, settings.tasks)
        subjects = router_subjects(recipe, split_precisions(routers), experts, singles=singles)
        if prior_only:
            from gem_study.routing_priors import priors_report, study_priors

            study = study_priors(
                subjects[2:], settings, Terminal(strict=strict), left_out, (resamples, seed)
            )
            write_report(study.to_json(), priors_report(study), output)
            return
        bench = Bench(
            settings=settings,
            workforce=Workforce(workers=workers, threads=recipe.run.threads, cluster=cluster),
            folder=output,
            restart=restart,
        )
        found, problems = run_routers(subjects, bench, Terminal(strict=strict))
    study_found = study_routing(
        found[0], found[1], found[2:], left_out=left_out, resamples=resamples, seed=seed
    )
    write_report(study_found.to_json(), routing_report(study_found), output)
    if problems:
        from gem_study.subjects import failure

        raise failure(problems, output)


def _check_left_out(left_out: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    """Before hours of work: `--left-out` names tasks of the run."""
    from gemcore.errors import unknown_name

    for name in left_out:
        if name not in tasks:
            raise unknown_name("benchmark", name, tasks)
