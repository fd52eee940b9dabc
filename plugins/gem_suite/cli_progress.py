"""What is shown on stderr during a run: a bar in a terminal, a line for each task elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID


class RunDisplay:
    """Shows how a run goes on; see `gem_suite.runner.Progress`."""

    def __init__(self) -> None:
        self._tasks = self._ended = 0
        self._bar: Progress | None = None
        self._row: TaskID | None = None

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, total: int, done: int, tasks: int) -> None:
        """Show the bar, or what there is to do."""
        self._tasks = tasks
        if done:
            self._say(f"going on where an earlier run ended, {done / max(total, 1):.0%} done")
        if sys.stderr.isatty() and total > done:
            self._bar = _new_bar()
            self._bar.start()
            # What an earlier run did says nothing of this one's speed.
            self._row = self._bar.add_task("starting", total=total - done)

    def advance(self, task: str, cost: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, description=task, advance=cost)

    def finish(self, task: str, items: int) -> None:
        """Note that a task is done."""
        self._ended += 1
        if self._bar is None:
            self._say(f"[{self._ended}/{self._tasks}] {task}: {items} items")

    def fail(self, task: str, problem: str) -> None:
        """Note that a task has failed."""
        self._ended += 1
        self._say(f"[{self._ended}/{self._tasks}] {task} failed: {problem}")

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: tuple[Any, ...] = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
