"""`gem route`: what a router says of a text, and how long it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.build_options import open_for_command, open_options, read_recipe
from gemcore.cli.display import read_text_argument

if TYPE_CHECKING:
    from gemcore.routing_time import RoutingTime


ROUTER = "scar"
"""What is asked where no router is named: with none there is nothing to show."""


@click.command()
@click.argument("text", required=False)
@open_options
@click.option("--system", help="System message of the chat.")
@click.option("--no-chat", is_flag=True, help="Take the text as it is, without template.")
@click.option(
    "--repeat",
    type=int,
    default=10,
    show_default=True,
    help="How often routing is timed; the median counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def route(
    *,
    text: str | None,
    recipe_file: Path | None,
    bundle: Path | None,
    strict: bool,
    no_chat: bool,
    repeat: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Say which experts TEXT, or the text on stdin, calls for, and time the routing alone.

    The text is put into the chat template, as `gem run` would do; nothing is answered. The router is `scar`
    where none is named.
    """
    from gemcore.routes import check_experts
    from gemcore.routing_time import check_repetitions, time_routing

    check_repetitions(repeat)
    if bundle is None and recipe_file is None and given["router"] is None:
        given["router"] = ROUTER
    recipe = read_recipe(recipe_file, given | {"chat": False if no_chat else None})
    prompt = read_text_argument(text)
    session = open_for_command(recipe, bundle, strict=strict)
    check_experts(session.bundle.manifest)
    tokens = session.encode_prompt(prompt, system=recipe.run.system, chat=recipe.run.chat)
    routes = session.routes(tokens)
    timing = time_routing(session, tokens, repeat)
    if as_json:
        from gemcore.build import manifest_summary

        values = {
            **manifest_summary(session.bundle),
            "prompt_tokens": len(tokens),
            "routing": routes.to_json(),
            "timing": timing.to_json(),
        }
        click.echo(json.dumps(values, ensure_ascii=False, indent=2))
        return
    from gemcore.cli.explanation import explanation, shows_colour

    for line in explanation(routes, colour=shows_colour()):
        click.echo(line)
    for line in _timing_lines(timing, len(tokens)):
        click.echo(line)


def _timing_lines(timing: RoutingTime, tokens: int) -> Iterator[str]:
    if timing.prior_ms is None:
        yield "prior: none of the model's own"
    else:
        yield f"prior: {timing.prior_ms:.2f} ms for {tokens} tokens, once a request"
    if timing.token_ms is None:
        yield "routers: no time of their own"
    else:
        yield f"routers: {timing.token_ms:.4f} ms a token"
