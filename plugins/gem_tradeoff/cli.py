"""`gem tradeoff`: what specialising a model for one domain did to the others."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from gem_tradeoff.results import ResultFile

# As in the module bootstrap, whose NumPy `--help` need not load.
RESAMPLES = 2000
_FILE = click.Path(path_type=Path, dir_okay=False)


class _Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "NAME,…"

    def convert(self, value: Any, *_: Any) -> tuple[str, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


def _shared(command: Any) -> Any:
    """The options of every command that resamples result files."""
    for option in reversed(
        [
            click.option("--domains", type=_Names(), help="Only these domains."),
            click.option("--leave-out", type=_Names(), default=(), help="Tasks not to count."),
            click.option(
                "--resamples",
                type=click.IntRange(100, 100_000),
                default=RESAMPLES,
                show_default=True,
                help="Bootstrap resamples of the items.",
            ),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
            click.option("--json", "json_file", type=_FILE, help="Write the numbers as JSON."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.argument("base", type=_FILE)
@click.argument("specialised", nargs=-1, required=True, metavar="[DOMAIN=]SPECIALISED.json…")
@click.option(
    "--domain",
    "own",
    multiple=True,
    help="What a model is specialised for, where its file does not say; once for each model.",
)
@click.option(
    "--variant",
    "variants",
    type=click.Choice(["task", "text", "answer"]),
    multiple=True,
    default=("task", "text"),
    show_default=True,
    help="Scores of tasks, bits per byte of held-out text, or of right answers.",
)
@click.option("--html", "html_file", type=_FILE, help="Write a page with figures.")
@_shared
def tradeoff(
    *,
    base: Path,
    specialised: tuple[str, ...],
    own: tuple[str, ...],
    variants: tuple[str, ...],
    html_file: Path | None,
    json_file: Path | None,
    domains: tuple[str, ...] | None,
    leave_out: tuple[str, ...],
    resamples: int,
    seed: int,
) -> None:
    """Gain matrix, DSI, GG, CDTR and forgetting of specialised models against their BASE.

    All files are results of `gem eval suite` over the same tasks and items.
    """
    from gem_tradeoff.analysis import analyse
    from gem_tradeoff.results import read_results
    from gem_tradeoff.text import tradeoff_lines

    report = analyse(
        read_results(base),
        _specialised(specialised, own),
        variants=dict.fromkeys(variants),
        domains=domains,
        leave_out=leave_out,
        resamples=resamples,
        seed=seed,
    )
    if json_file:
        write_text(json_file, _as_json(report.to_json()))
    if html_file:
        from gem_tradeoff.page import tradeoff_page

        write_text(html_file, tradeoff_page(report))
    for line in tradeoff_lines(report, shutil.get_terminal_size().columns):
        click.echo(line, color=_colour())


@click.command("compare")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="A.json B.json…")
@_shared
def compare_command(
    *,
    files: tuple[Path, ...],
    json_file: Path | None,
    domains: tuple[str, ...] | None,
    leave_out: tuple[str, ...],
    resamples: int,
    seed: int,
) -> None:
    """Set result files against the first one: differences with paired 95 % intervals."""
    from gem_tradeoff.compare import compare
    from gem_tradeoff.results import read_results
    from gem_tradeoff.text import comparison_lines

    rows = compare(
        [read_results(path) for path in files],
        domains=domains,
        leave_out=leave_out,
        resamples=resamples,
        seed=seed,
    )
    if json_file:
        write_text(json_file, _as_json([row.to_json() for row in rows]))
    for line in comparison_lines(rows):
        click.echo(line, color=_colour())


def write_text(path: Path, content: str) -> None:
    """Write a file under a temporary name, then rename it; GemError where that cannot be done."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise GemError(f"cannot write {path}: {error.strerror or error}") from error


def _specialised(words: Sequence[str], own: Sequence[str]) -> list[tuple[ResultFile, str | None]]:
    """Read `path` or `DOMAIN=path`; domains given by `--domain` go to the paths in their order."""
    from gem_tradeoff.results import read_results

    if own and len(own) != len(words):
        raise UsageError(
            f"--domain is given {len(own)} times for {len(words)} specialised models: give it once "
            "for each, in their order, or write DOMAIN=FILE"
        )
    found = []
    for number, word in enumerate(words):
        domain, separator, path = word.partition("=")
        # A file whose own name holds "=" is meant as it stands.
        if not separator or Path(word).is_file():
            domain, path = "", word
        if own and domain and own[number] != domain:
            raise UsageError(f"'{word}' names another domain than --domain {own[number]}: give one")
        found.append((read_results(Path(path)), domain or (own[number] if own else None)))
    return found


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _colour() -> bool | None:
    """No colour where NO_COLOR asks for none (https://no-color.org); else as click decides."""
    return False if os.environ.get("NO_COLOR") else None
