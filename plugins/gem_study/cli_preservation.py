"""`gem study preservation`: what specialising forgets, by the way it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gem_study.cli_options import (
    FOLDER,
    Names,
    Terminal,
    model_options,
    result_options,
    suite_settings,
    write_report,
)
from gem_suite.engines import ENGINES
from gem_suite.runner_engine import CLUSTERS
from gemcore.cli.build_options import read_recipe
from gemcore.errors import UsageError


@click.command()
@click.option(
    "--full",
    type=Names(),
    default=(),
    metavar="DOMAIN=FOLDER,…",
    help="Models of plain full fine-tuning.",
)
@click.option(
    "--preserved",
    type=Names(),
    default=(),
    metavar="DOMAIN=FOLDER,…",
    help="Models of full fine-tuning with preservation.",
)
@click.option("--experts", metavar="SET", help="The set of experts: its name, or a folder.")
@click.option("--router", default="scar", show_default=True, help="Of the routed model.")
@click.option("-q", "--quantizer", help="How weights are stored, for example 'q4a-g32'.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="compiled",
    show_default=True,
    help="Of base and fine-tuned models; models with experts are always compiled.",
)
@click.option(
    "--general", default="wikitext2", show_default=True, help="The task with general text."
)
@model_options
@click.option("--data", type=FOLDER, help="The folder of the benchmark data; else GEM_DATA.")
@click.option("--limit", type=click.IntRange(2), help="The first so many pieces of each text.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Share the work."
)
@click.option("--cluster", type=click.Choice(CLUSTERS), help="Have Ray spread the work.")
@click.option("--restart", is_flag=True, help="Measure again what was measured already.")
@result_options
def preservation(
    *,
    full: tuple[str, ...],
    preserved: tuple[str, ...],
    experts: str | None,
    router: str,
    engine: str,
    general: str,
    recipe_file: Path | None,
    strict: bool,
    data: Path | None,
    limit: int | None,
    workers: int,
    cluster: str | None,
    restart: bool,
    resamples: int,
    seed: int,
    output: Path,
    **given: Any,
) -> None:
    """Set full fine-tuning, the same with preservation, single experts and routed ones side by side.

    Only held-out corpora and general text are run. Writes a result file for each model, study.json
    and study.html. An interrupted study goes on where it was when the same command is given again.
    """
    folders = {
        "--full": _folders("--full", full),
        "--preserved": _folders("--preserved", preserved),
    }
    from gem_study.preservation import study_preservation
    from gem_study.preservation_report import preservation_report
    from gem_study.preservation_runs import plan_models, run_models, text_tasks
    from gem_study.subjects import Bench, failure
    from gem_suite.runner_engine import Workforce

    recipe = read_recipe(recipe_file, given)
    settings = text_tasks(suite_settings(data, limit=limit, seed=seed, bits_only=True), general)
    plan = plan_models(
        recipe,
        folders["--full"],
        folders["--preserved"],
        experts=experts,
        router=router,
        engine=engine,
    )
    bench = Bench(
        settings=settings,
        workforce=Workforce(workers=workers, threads=recipe.run.threads, cluster=cluster),
        folder=output,
        restart=restart,
    )
    models, problems = run_models(plan, bench, Terminal(strict=strict))
    found = study_preservation(models, general=general, resamples=resamples, seed=seed)
    write_report(found.to_json(), preservation_report(found), output)
    if problems:
        raise failure(problems, output)


def _folders(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """Folders by domain, from `DOMAIN=FOLDER`."""
    found: dict[str, str] = {}
    for word in words:
        domain, equals, folder = (part.strip() for part in word.partition("="))
        if not equals or not domain or not folder:
            raise UsageError(f"{option} '{word}' is not of the form DOMAIN=FOLDER")
        if domain in found:
            raise UsageError(f"{option} names two models for '{domain}': give one of them")
        found[domain] = folder
    return found
