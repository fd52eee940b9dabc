"""`gem experts fit-router`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gem_suite.licences import CHOICES
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet

_PATH = click.Path(path_type=Path)


@click.command("fit-router")
@click.option(
    "--router",
    "words",
    default="scar",
    show_default=True,
    metavar="NAME[:option=value,…]",
    help="The router to fit.",
)
@click.option(
    "--experts",
    "choice",
    metavar="SET",
    help="The name of a set, or a folder; GEM's own experts if not given.",
)
@click.option("--data", type=_PATH, help="The folder of the benchmark data; else GEM_DATA.")
@click.option(
    "--general",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A file of text, paragraphs apart, that no expert is for; may be repeated.",
)
@click.option(
    "--licences",
    type=click.Choice(CHOICES),
    default="permissive",
    show_default=True,
    help="Only data whose licence permits to pass on what was made of it, or all.",
)
@click.option("--exclude", default="", metavar="NAME,…", help="Benchmarks to leave out.")
@click.option(
    "--items",
    type=click.IntRange(2),
    default=120,
    show_default=True,
    help="The most texts of each benchmark or file.",
)
@click.option(
    "--steps", type=click.IntRange(1), help="Steps of training; the router's own if not given."
)
@click.option("--layer", type=click.IntRange(0), help="The layer whose tokens are routed.")
@click.option(
    "--prior",
    type=click.Choice(("early", "encoder")),
    help="encoder: fit the prior of a sentence encoder as well, which is fetched (84 MB) if need be.",
)
@click.option(
    "--familiar",
    type=click.FloatRange(0.5, 1),
    help="Share of held-out texts that count as familiar; less of it is more caution.  [default: 0.8]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def fit_router(
    *,
    words: str,
    choice: str | None,
    data: Path | None,
    general: tuple[Path, ...],
    licences: str,
    exclude: str,
    items: int,
    steps: int | None,
    layer: int | None,
    prior: str | None,
    familiar: float | None,
    seed: int,
) -> None:
    """Fit a router to the experts of a set, on the train items of the benchmarks.

    The domain of a benchmark says which expert its items are for; items of a domain without an expert
    are for the general path. The result is written beside the experts.
    """
    from gem_scar.examples import benchmark_examples, general_examples, written_examples
    from gem_suite.folders import data_folder
    from gemcore.experts.library import open_set
    from gemcore.options import parse_words
    from gemcore.plugins import get_host

    host = get_host()
    asked = parse_words(words)
    if choice is not None:
        asked = type(asked)(asked.name, {**asked.options, "experts": choice})
    selection = host.select("router", asked)
    for option, value in (("--prior", prior), ("--familiar", familiar)):
        if value is not None and selection.name != "scar":
            raise UsageError(
                f"{option} is for router 'scar': router '{selection.name}' has none to choose"
            )
    router = host.create(selection)
    experts = open_set(selection.options.get("experts"), host)
    if "fit" not in selection.record.capabilities:
        click.echo(f"router '{selection.name}' has nothing to learn")
        return
    names = [name.strip() for name in exclude.split(",") if name.strip()]
    examples = list(
        benchmark_examples(
            data_folder(data),
            domains_of(experts),
            items=items,
            seed=seed,
            exclude=names,
            licences=licences,
        )
    )
    examples += written_examples(domains_of(experts))
    for path in general:
        examples += general_examples(path, items, seed)
    given = {"steps": steps, "layer": layer, "prior": prior, "familiar": familiar}
    chosen = {name: value for name, value in given.items() if value is not None}
    _fit(router, examples, {"seed": seed, **chosen})


def domains_of(experts: ExpertSet) -> dict[str, str]:
    """Domain to expert; of two experts of one domain the first by name stands for it."""
    found: dict[str, str] = {}
    for expert in experts.experts:
        found.setdefault(expert.card.domain, expert.card.name)
    return found


def _fit(router: Any, examples: list[Any], options: dict[str, Any]) -> None:
    """Fit with progress and options where the router takes them (`fit_examples`), else plainly."""
    from gemcore.cli.display import StepDisplay

    fit_examples = getattr(router, "fit_examples", None)
    if fit_examples is None:
        router.fit([(example.text, example.label) for example in examples])
        return
    with StepDisplay() as display:
        report = fit_examples(examples, options, display.step)
    for line in report:
        click.echo(line)
