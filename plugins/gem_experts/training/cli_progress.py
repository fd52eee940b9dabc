"""What `gem experts train` shows on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gem_experts.training.state import Standing
    from gemcore.cli.display import StepDisplay

INTERVAL = 20.0
"""Seconds between two lines of a training."""


class TrainingDisplay:
    """Lines about a training: loss, speed, time left, and how general text fares.

    Args:
        display: shows what goes on before and after.
        tokens_a_step: for the speed, of the domain's text.
    """

    def __init__(self, display: StepDisplay, tokens_a_step: int) -> None:
        self._display, self._tokens = display, tokens_a_step
        self._start: tuple[float, int] | None = None
        self._shown = 0.0

    def step(self, standing: Standing, steps: int) -> None:
        """Note that a step is done; shown now and then, and at the end."""
        now = time.monotonic()
        if self._start is None:
            # The first step of a run also warms up, and says little of the others.
            self._start = now, standing.step
        self._display.step("training", standing.step, steps)
        if now - self._shown >= INTERVAL or standing.step == steps:
            self._shown = now
            click.echo(self.line(standing, steps, now), err=True)

    def line(self, standing: Standing, steps: int, now: float) -> str:
        """One line about where the training stands at the time `now`."""
        record = standing.history[-1]
        parts = [f"step {standing.step}/{steps}", f"loss {record['loss']:.4f}"]
        if "mean_rise" in record:
            parts.append(
                f"general {100 * record['mean_rise']:+.2f} % (alpha {record['alpha']:.3g}, "
                f"lambda {record['lambda']:.3g})"
            )
        begun, first = self._start or (now, standing.step)
        done = standing.step - first
        if done and now > begun:
            speed = done / (now - begun)
            left = (steps - standing.step) / speed
            parts += [f"{speed * self._tokens:.0f} tokens/s", f"{duration(left)} left"]
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words, to the nearest that matters.

    >>> duration(42.3), duration(222), duration(7260)
    ('42 s', '3 min 42 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
