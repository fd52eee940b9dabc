"""`gem experts score`."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gem_experts.cli_options import experts_option, json_option, the_place
from gemcore.cli.build_options import read_recipe
from gemcore.cli.plugins import table

if TYPE_CHECKING:
    from gem_experts.score import ExpertScores, Score
    from gemcore.experts.library import SetPlace

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("score")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@experts_option
@click.option("-m", "--model", help="The base model; that of the set if not given.")
@click.option("-q", "--quantizer", help="How weights are stored, for example 'q4a-g32'.")
@click.option("--data", type=_FOLDER, help="The folder of the benchmark data; else GEM_DATA.")
@click.option("--limit", type=click.IntRange(2), help="The first so many items of each task.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=int, help="Threads that compute; by default all cores.")
@click.option("--resamples", type=click.IntRange(100, 100_000), default=2000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--write", is_flag=True, help="Put the figures into the experts' cards.")
@click.option("-o", "--output", type=_FOLDER, help="Keep result files here, and go on from them.")
@json_option
def score_command(
    *,
    names: tuple[str, ...],
    choice: str | None,
    data: Path | None,
    limit: int | None,
    workers: int,
    resamples: int,
    seed: int,
    write: bool,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure experts on their own domain against the base: held-out text, and right answers.

    Each expert NAME, or every one of the set, is always on; figures are bits per byte, with 95 %
    intervals of their change.
    """
    from gem_experts.score import ScoreRun, chosen_cards, score_experts
    from gem_study.cli_options import Terminal, suite_settings
    from gem_study.subjects import Bench, failure
    from gem_suite.runner_engine import Workforce
    from gemcore.experts.expert_set import read_set

    place = the_place(choice)
    experts = read_set(place.folder)
    cards = chosen_cards({one.card.name: one.card for one in experts.experts}, names)
    settings = suite_settings(data, limit=limit, seed=seed, bits_only=True)
    recipe = read_recipe(None, given | {"model": given["model"] or experts.base_name})
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(
            settings=settings,
            workforce=Workforce(workers=workers, threads=recipe.run.threads),
            folder=folder,
        )
        run = ScoreRun(recipe=recipe, experts=choice, cards=cards, bench=bench)
        found, problems = score_experts(run, Terminal(strict=False), resamples=resamples, seed=seed)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
    else:
        for line in score_table(found):
            click.echo(line)
    if write:
        _write(place, found)
    if problems:
        raise failure(problems, folder)


def score_table(found: list[ExpertScores]) -> list[str]:
    """Scores as aligned lines, with a heading."""
    heads = ("EXPERT", "DOMAIN", "ON", "BASE", "EXPERT", "CHANGE", "95 % INTERVAL")
    rows = []
    for one in found:
        for what, score in (("held-out text", one.text), ("answers", one.answers)):
            rows.append((one.name, one.domain, what, *_words(score)))
    return table([heads, *rows])


def _words(score: Score | None) -> tuple[str, str, str, str]:
    if score is None:
        return "-", "-", "-", "-"
    change = score.change
    return (
        f"{score.base.value:.4f}",
        f"{score.expert.value:.4f}",
        f"{100 * change.value:+.2f} %",
        f"{100 * change.low:+.2f} to {100 * change.high:+.2f}",
    )


def _write(place: SetPlace, found: list[ExpertScores]) -> None:
    """Put the figures into the cards; a set that comes with GEM is copied first."""
    from gem_experts.score import write_scores
    from gemcore.experts.library import own_copy

    own = own_copy(place)
    if place.own_folder is not None:
        click.echo(
            f"copied the experts of '{place.name}' to {own.folder}: from now on those are used",
            err=True,
        )
    for one in found:
        write_scores(own.folder / one.name, one)
    cards = "1 card" if len(found) == 1 else f"{len(found)} cards"
    click.echo(f"wrote the figures into {cards} in {own.folder}", err=True)
