"""Writes docs/reference/commands.md from the commands themselves: GEM's own and its plugins'."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gemcore.cli.main import gem

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "commands.md"

HEAD = """# Commands

Every command of GEM with its arguments and options, as `gem COMMAND --help` lists them; `-h` and `--help`
work everywhere. This page is made from the commands by `python tools/command_reference.py`; a test fails
when the two differ. Examples and explanations are in [the command line](../command-line.md).
"""


def page() -> str:
    """The whole page as Markdown."""
    root = click.Context(gem, info_name="gem")
    # Only what comes with GEM, whatever else is installed.
    root.params["no_plugins"] = True
    parts = [HEAD]
    for path, command, context in _commands("gem", gem, root):
        parts.append("\n".join(_section(path, command, context)))
    return "\n".join(parts)


def _commands(
    path: str, command: click.Command, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is None:
                raise LookupError(f"{path} lists {name}, but does not have it")
            inner = click.Context(child, info_name=name, parent=context)
            yield from _commands(f"{path} {name}", child, inner)


def _section(path: str, command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {path}"
    yield ""
    yield _paragraphs(command.help or "")
    yield ""
    yield "```text"
    yield " ".join([path, *command.collect_usage_pieces(context)])
    yield "```"
    yield ""
    rows = [_row(parameter, context) for parameter in command.params]
    if isinstance(command, click.Group):
        names = [
            f"[`{name}`](#{path.replace(' ', '-')}-{name})"
            for name in command.list_commands(context)
        ]
        yield f"Commands: {', '.join(names)}"
        yield ""
    if not rows:
        return
    yield "| option | meaning | values | default |"
    yield "| --- | --- | --- | --- |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


def _paragraphs(text: str) -> str:
    """The text of a docstring, one line a paragraph."""
    blocks = text.replace("\b", "").split("\f")[0].strip().split("\n\n")
    return "\n\n".join(" ".join(block.split()) for block in blocks)


def _row(parameter: click.Parameter, context: click.Context) -> tuple[str, str, str, str]:
    facts: dict[str, Any] = parameter.to_info_dict()
    if isinstance(parameter, click.Option):
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        meaning = " ".join((parameter.help or "").split())
        values = "" if parameter.is_flag else _values(parameter, context)
    else:
        names = f"`{parameter.make_metavar(context)}`"
        meaning = "argument" if parameter.required else "argument, may be left out"
        values = _values(parameter, context)
    if facts.get("multiple") and "repeated" not in meaning:
        meaning = f"{meaning} May be repeated.".strip()
    meaning, default = _split_default(meaning)
    return names, meaning, values, default or _default(facts)


def _split_default(meaning: str) -> tuple[str, str]:
    """Take `[default: 256]` out of a help text: what it says, and the default."""
    found = re.search(r"\s*\[default: ([^\]]+)\]", meaning)
    if found is None:
        return meaning, ""
    return meaning.replace(found[0], ""), f"`{found[1]}`"


def _values(parameter: click.Parameter, context: click.Context) -> str:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        return f"{'whole number' if isinstance(kind, click.IntRange) else 'number'} {_range(kind)}"
    names = {"integer": "whole number", "float": "number", "filename": "path"}
    return names.get(kind.name, kind.name)


def _range(kind: click.IntRange | click.FloatRange) -> str:
    words = []
    if kind.min is not None:
        words.append(f"{'above' if kind.min_open else 'at least'} {kind.min:g}")
    if kind.max is not None:
        words.append(f"{'below' if kind.max_open else 'at most'} {kind.max:g}")
    return ", ".join(words)


def _default(facts: dict[str, Any]) -> str:
    value = facts.get("default")
    if facts.get("required"):
        return "required"
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return f"`{value}`" if plain else ""


def main() -> None:
    """Write the page; with `--check` only say whether it is what would be written."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text(encoding="utf-8") != text:
            sys.exit(f"{PAGE} is not what the commands say: run python tools/command_reference.py")
        return
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
