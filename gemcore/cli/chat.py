"""`gem chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.build_options import (
    open_for_command,
    open_options,
    read_recipe,
    sampling_options,
    sampling_settings,
)
from gemcore.cli.display import note
from gemcore.cli.run import report_line, run_report

if TYPE_CHECKING:
    from gemcore.recipe import Recipe
    from gemcore.session import Session

_HELP = "/new begins again, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


@click.command()
@open_options
@sampling_options
def chat(*, recipe_file: Path | None, bundle: Path | None, strict: bool, **given: Any) -> None:
    """Talk with a model; what was said before is kept in its cache."""
    from gemcore.runtime.memory import return_code_pages

    recipe = read_recipe(recipe_file, given)
    sampling_settings(recipe)
    session = open_for_command(recipe, bundle, strict=strict)
    return_code_pages()
    if sys.stdin.isatty():
        import readline  # noqa: F401  (line editing and history of `input`)

        note(_HELP)
    messages: list[dict[str, str]] = []
    while (text := _next_line()) is not None:
        if text == "/exit":
            break
        if text == "/new":
            messages.clear()
        elif text:
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": _answer(session, recipe, messages)})


def _next_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        from gemcore.errors import UsageError

        raise UsageError(f"stdin is not valid UTF-8: {error.reason}") from error


def _answer(session: Session, recipe: Recipe, messages: list[dict[str, str]]) -> str:
    """Stream the answer to the last message, and return what was shown of it."""
    run = recipe.run
    stream = session.stream(
        messages,
        max_tokens=run.max_tokens,
        sampling=sampling_settings(recipe),
        system=run.system,
        prompt_lookup=run.prompt_lookup,
    )
    shown: list[str] = []
    try:
        for piece in stream:
            shown.append(piece)
            click.echo(piece, nl=False)
    except KeyboardInterrupt:
        click.echo(" …")
        return "".join(shown)
    click.echo()
    assert stream.result is not None
    note(report_line(run_report(session, stream.result)))
    return stream.result.text
