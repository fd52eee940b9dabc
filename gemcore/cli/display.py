"""What commands show on stderr while they work."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class StepDisplay:
    """A line for each step of a build: a progress bar in a terminal, plain lines elsewhere.

    Nothing is shown, and nothing is imported, when there is nothing to do.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name: str | None = None

    def __enter__(self) -> StepDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, name: str, done: int, total: int) -> None:
        """Show that `name` is going on, `done` of `total`."""
        if not self._terminal:
            if name != self._name:
                click.echo(f"{name} …", err=True)
        else:
            self._show(name, done, total)
        self._name = name

    def download(self, done: int, total: int) -> None:
        """Show a download, in bytes."""
        self.step("downloading", done, total)

    def _show(self, name: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        if name != self._name or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            # One that cannot say how far it is gets a bar that only moves.
            self._task = self._bar.add_task(name, total=total if total > 1 else None)
        if total > 1:
            self._bar.update(self._task, completed=done, total=total)


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def read_text_argument(text: str | None) -> str:
    """A prompt from the command line, or all of stdin where none was given or it is `-`."""
    from gemcore.errors import UsageError

    if text is not None and text != "-":
        return text
    if sys.stdin.isatty():
        raise UsageError("no prompt was given: write one after the command, or pipe it in")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt on stdin is not valid UTF-8: {error.reason}") from error


def note(text: str) -> None:
    """A quiet line on stderr."""
    click.echo(click.style(text, dim=True), err=True)
