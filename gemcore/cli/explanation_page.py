"""Which experts worked, as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gemcore.cli.explanation import PALETTE, visible
from gemcore.page import add, add_table, new_page, written
from gemcore.routes import GENERAL

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from gemcore.routes import Routes

FAINTEST, STRONGEST = 0.12, 0.45
"""Opacity of a token's colour at weights 0 and 1: text stays readable on it."""

CSS = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5f666f; --line: #d6d9dd; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --faint: #a4abb4; --line: #41464d;
  --paper: #15181c; } }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.faint { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2; margin: 0; }
.text span { border-bottom: 3px solid transparent; }
.text span:hover { outline: 1px solid var(--ink); }
i { display: inline-block; width: 1rem; height: 1rem; margin-right: .5rem; vertical-align: middle;
  border-bottom: 3px solid var(--faint); }
sup { color: var(--faint); font-size: .65rem; padding: 0 .1rem; user-select: none; }
@media print { :root { color-scheme: light; --ink: #000; --faint: #444; --line: #bbb; --paper: #fff; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; }
  tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def explanation_page(
    routes: Routes, parts: Sequence[tuple[str, int]], about: Sequence[str] = ()
) -> str:
    """Write the page: the text in the experts' colours, with weights on hover, and a table of experts.

    The colours are told apart by colour-blind readers; where the strongest expert changes, its number
    stands before the text.

    Args:
        routes: what worked.
        parts: headings of the parts of the text, each with its number of tokens; together, all tokens.
        about: what was run, shown below the heading.
    """
    html, body = new_page("Which experts worked", CSS + _colours(len(routes.experts)))
    add(body, "h1", "Which experts worked")
    if about:
        add(body, "p", " · ".join(map(visible, about)), class_="faint")
    _legend(body, routes)
    start = 0
    for title, count in parts:
        add(body, "h2", title)
        _text(body, routes, range(start, start + count))
        start += count
    return written(html)


def _legend(body: Element, routes: Routes) -> None:
    rows = add_table(body, ("expert", "prior", "strongest", "works", "weight"))
    for number, use in enumerate(routes.uses()):
        row = add(rows, "tr")
        name = add(row, "th", scope="row")
        add(name, "i", style=f"background:{_colour(number, STRONGEST)}", class_=f"e{number}")
        name[-1].tail = f"{number + 1} {visible(use.name)}"
        for value in (f"{use.prior:.3f}", use.strongest, use.works, f"{use.weight:.3f}"):
            add(row, "td", str(value))
    row = add(rows, "tr")
    add(row, "th", f"0 {GENERAL}", scope="row")
    general = int((routes.strongest < 0).sum())
    for value in ("", str(general), "", ""):
        add(row, "td", value)
    add(
        body,
        "p",
        f"{routes.general_share:.1%} of {len(routes.token_ids)} tokens took the {GENERAL}. A token has the "
        "colour of its strongest expert, the deeper the higher its weight; rest on it to see all weights. "
        "The number of the expert stands where it changes.",
        class_="faint",
    )


def _text(body: Element, routes: Routes, tokens: range) -> None:
    text = add(body, "p", class_="text")
    strongest, before = routes.strongest.tolist(), -1
    for token in tokens:
        piece, expert = visible(routes.pieces[token]), strongest[token]
        if not piece:
            continue
        if expert != before:
            add(text, "sup", str(expert + 1))
            before = expert
        weights = routes.weights[token]
        working = [
            f"{visible(name)} {weight:.3f}"
            for name, weight in zip(routes.experts, weights.tolist(), strict=True)
            if weight > 0
        ]
        span = add(text, "span", piece, title=", ".join(working) or GENERAL)
        if expert >= 0:
            share = min(1.0, max(0.0, float(weights[expert])))
            span.set("class", f"e{expert}")
            colour = _colour(expert, FAINTEST + share * (STRONGEST - FAINTEST))
            span.set("style", f"background:{colour}")


def _colours(experts: int) -> str:
    """A line below the tokens of each expert; where colours repeat, it is another kind of line."""
    kinds = ("solid", "dotted", "double", "dashed")
    rules = (
        f".e{i}, .text .e{i} {{ border-bottom: 3px {kinds[i // len(PALETTE) % len(kinds)]} {_colour(i)}; }}"
        for i in range(experts)
    )
    return "\n".join(rules) + "\n"


def _colour(expert: int, opacity: float = 1.0) -> str:
    red, green, blue = PALETTE[expert % len(PALETTE)]
    return f"rgba({red},{green},{blue},{opacity:.2f})"
