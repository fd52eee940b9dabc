"""Which experts worked, in the terminal: the text in their colours, and a table of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gemcore.routes import GENERAL

if TYPE_CHECKING:
    from gemcore.routes import Routes

RGB = tuple[int, int, int]

PALETTE: tuple[RGB, ...] = (
    (136, 204, 238),
    (204, 102, 119),
    (221, 204, 119),
    (51, 34, 136),
    (68, 170, 153),
    (136, 34, 85),
    (153, 153, 51),
    (170, 68, 153),
    (17, 119, 51),
)
"""Paul Tol's scheme "muted", which can be told apart by colour-blind readers, too
(https://sronpersonalpages.nl/~pault/); its colours repeat where there are more experts."""


def shows_colour() -> bool:
    """Whether stdout is a terminal, and NO_COLOR does not ask for none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def explanation(routes: Routes, *, colour: bool) -> Iterator[str]:
    """Say which experts worked, line by line: with `colour` the text, then the table, its legend."""
    if colour:
        yield _coloured(routes)
        yield ""
    yield from _table(routes, colour=colour)


def visible(piece: str) -> str:
    """The text of a token without characters that would control the terminal or the page."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for letter in piece
    )


def _coloured(routes: Routes) -> str:
    parts = []
    for piece, expert in zip(routes.pieces, routes.strongest.tolist(), strict=True):
        # The background of a line must not go on to the edge of the screen.
        lines = (_styled(line, expert) if line else "" for line in visible(piece).split("\n"))
        parts.append("\n".join(lines))
    return "".join(parts)


def _styled(text: str, expert: int) -> str:
    if expert < 0:
        return text
    colour = PALETTE[expert % len(PALETTE)]
    again = expert // len(PALETTE) % 2 == 1
    return click.style(text, bg=colour, fg=ink(colour), underline=again or None)


def ink(background: RGB) -> RGB:
    """Black or white, whichever is easier to read on the background."""
    red, green, blue = background
    return (0, 0, 0) if 299 * red + 587 * green + 114 * blue > 128_000 else (255, 255, 255)


def _table(routes: Routes, *, colour: bool) -> Iterator[str]:
    width = max(len(name) for name in (*routes.experts, GENERAL))
    yield f"{'expert':<{width}}  {'prior':>6}  {'strongest':>9}  {'works':>6}  {'weight':>6}"
    for number, use in enumerate(routes.uses()):
        name = _styled(use.name, number) if colour else use.name
        yield (
            f"{name}{' ' * (width - len(use.name))}  {use.prior:>6.3f}  {use.strongest:>9}  "
            f"{use.works:>6}  {use.weight:>6.3f}"
        )
    count = len(routes.token_ids)
    general = int((routes.strongest < 0).sum())
    yield f"{GENERAL:<{width}}  {'':>6}  {general:>9}"
    yield f"{general} of {count} tokens ({routes.general_share:.1%}) took the {GENERAL}"
