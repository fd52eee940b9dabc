"""`gem models`: which models are known and here, and fetching them."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.main import PluginGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gemcore.plugins import PluginHost

_LINES_EVERY_SECONDS = 10.0


@click.group(cls=PluginGroup)
def models() -> None:
    """Fetch models, and list those that are known or here."""


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Fetch NAME into the cache, check it, and say where it is.

    NAME is a known model (see `gem models list`) or a Hugging Face Hub id, OWNER/NAME. A download
    that was interrupted goes on where it stopped.
    """
    from gemcore.models.sources import owning_source
    from gemcore.plugins import get_host

    _, source = owning_source(name, get_host())
    with progress_display(f"fetching {name}") as progress:
        checkpoint = source.load(name, progress)
    here = next((model for model in source.cached() if model.name == name), None)
    config = checkpoint.config
    shape = f"{config.architecture}, {config.layers} layers, hidden size {config.hidden_size}"
    if here is None:
        click.echo(f"{name} ({shape}) is a local model: there is nothing to fetch")
    else:
        click.echo(f"{name} ({shape}) is ready: {here.path}, {human_size(here.bytes)}")


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: sizes in bytes, null if absent.")
def list_models(*, as_json: bool) -> None:
    """List the models that are known, and those that are in the cache."""
    from gemcore.plugins import get_host

    rows = model_rows(get_host())
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return
    for line in table(rows):
        click.echo(line)


def model_rows(host: PluginHost) -> list[dict[str, Any]]:
    """One row for each model that is known or cached, by name.

    Keys: name, source, summary, licence, bytes, cached, path; what is not known is None.
    """
    from gemcore.models.sources import sources

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record, source in sources(host, _note_failure):
        details = {model.name: model for model in getattr(source, "known", tuple)()}
        cached = {model.name: model for model in source.cached()}
        summaries = dict(record.models)
        for name in sorted({*summaries, *cached}):
            known, here = details.get(name), cached.get(name)
            size = here or known
            rows[name, record.name] = {
                "name": name,
                "source": record.name,
                "summary": summaries.get(name),
                "licence": known.licence if known else None,
                "bytes": size.bytes if size else None,
                "cached": here is not None,
                "path": str(here.path) if here else None,
            }
    return [row for _, row in sorted(rows.items())]


def _note_failure(source: str, reason: str) -> None:
    click.echo(f"{source} is left out: {reason}", err=True)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as aligned plain text, with a heading.

    >>> table([{"name": "a", "source": "hub", "bytes": 2000, "licence": None, "path": None,
    ...         "summary": "small"}])
    ['NAME  SOURCE  SIZE    LICENCE  PATH', 'a     hub     2.0 kB  -        not fetched: small']
    """
    lines = [("NAME", "SOURCE", "SIZE", "LICENCE", "PATH")]
    for row in rows:
        absent = f"not fetched: {row['summary']}" if row["summary"] else "not fetched"
        size = human_size(row["bytes"]) if row["bytes"] is not None else "-"
        lines.append(
            (row["name"], row["source"], size, row["licence"] or "-", row["path"] or absent)
        )
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def human_size(size: int) -> str:
    """A size in decimal units, as file managers and PyPI give it.

    >>> human_size(98_362_432), human_size(512)
    ('98.4 MB', '512 B')
    """
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@contextmanager
def progress_display(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show bytes done on stderr: a bar in a terminal, a line now and then elsewhere.

    Nothing is shown before the first report, so that what is there already stays quiet.
    """
    if sys.stderr.isatty():
        with _bar(what) as report:
            yield report
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task(what, total=None, start=False)

    def report(done: int, total: int) -> None:
        if not progress.live.is_started:
            progress.start()
            progress.start_task(task)
        progress.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        progress.stop()


def _lines(what: str) -> Callable[[int, int], None]:
    state = {"due": 0.0, "done": -1}

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        finished = done >= total and state["done"] < total
        if finished or now >= state["due"]:
            state["due"] = now + _LINES_EVERY_SECONDS
            click.echo(f"{what}: {human_size(done)} of {human_size(total)}", err=True)
        state["done"] = done

    return report
