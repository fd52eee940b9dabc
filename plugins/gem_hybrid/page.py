"""Bytes against KL as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

from gem_hybrid.pareto import Point
from gemcore.page import add, add_table, new_page, written
from gemcore.reports import Plan

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50

CSS = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5f666f; --line: #d6d9dd;
  --paper: #ffffff; --front: #2166ac; --mark: #b35806; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --faint: #a4abb4;
  --line: #41464d; --paper: #15181c; --front: #5aa2dd; --mark: #e08a3c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; }
.faint { color: var(--faint); max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--ink); } svg .tick { fill: var(--faint); font-size: 11px; }
svg .grid { stroke: var(--line); } svg .front { stroke: var(--front); fill: none; stroke-width: 2; }
svg .dot { fill: var(--front); } svg .mark { fill: var(--mark); }
svg .measured { fill: none; stroke: var(--mark); stroke-width: 2; }
"""


def pareto_page(
    model: str,
    plan: Plan,
    front: Sequence[Point],
    uniform: Sequence[Point],
    chosen: Sequence[Point],
) -> str:
    """Write the page.

    Args:
        model: its name.
        plan: the plan that was chosen.
        front: the least expected KL at each size.
        uniform: one precision for all weights, expected.
        chosen: the plan itself: expected, and measured where that was done; by name.
    """
    html, body = new_page(f"Precision of {model}", CSS)
    add(body, "h1", f"Bytes against loss: {model}")
    sentence = (
        "The KL divergence of the next-token distribution from the float model's, in nats a token, "
        "against the bytes of all weights. The line is the least that a mix of precisions is "
        f"expected to lose at each size; squares have one precision throughout. Plan: {plan.quantizer}."
    )
    add(body, "p", sentence, class_="faint")
    _plot(add(body, "figure", style="margin:0"), front, uniform, chosen)
    add(body, "h2", "The points")
    rows = add_table(body, ["plan", "bytes", "KL"])
    named = [(point.name or "front", point) for point in (*chosen, *uniform, *front)]
    for name, point in named:
        _row(rows, [name, f"{point.bytes:,}", f"{point.kl:.3e}"])
    add(body, "h2", "The plan")
    rows = add_table(body, ["weight", "precision", "bytes", "KL", "reason"])
    for entry in plan.entries:
        error = "-" if entry.expected_error is None else f"{entry.expected_error:.2e}"
        _row(rows, [entry.unit, entry.scheme, f"{entry.bytes:,}", error, entry.reason])
    return written(html)


def _plot(
    figure: Element, front: Sequence[Point], uniform: Sequence[Point], chosen: Sequence[Point]
) -> None:
    # A logarithm has no place for plans without any loss.
    shown = [point for point in (*front, *uniform, *chosen) if point.kl > 0]
    svg = add(figure, "svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    add(svg, "title", "KL divergence against bytes")
    if not shown:
        add(svg, "text", "No plan of this model loses anything.", x=LEFT, y=HEIGHT / 2)
        return
    sizes = [point.bytes for point in shown]
    low, high = min(sizes), max(*sizes, min(sizes) + 1)
    first = math.floor(math.log10(min(point.kl for point in shown)))
    last = max(first + 1, math.ceil(math.log10(max(point.kl for point in shown))))

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (math.log10(value) - first) / (last - first)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    for power in range(first, last + 1):
        _line(svg, LEFT, y(10.0**power), WIDTH - RIGHT, y(10.0**power))
        add(svg, "text", f"1e{power}", x=8, y=f"{y(10.0**power) + 4:.1f}", class_="tick")
    unit, word = (1e6, "MB") if high >= 1e6 else (1e3, "kB")
    for i in range(5):
        value = low + (high - low) * i / 4
        anchor = ("start", "middle", "middle", "middle", "end")[i]
        words = f"{value / unit:.4g} {word}"
        at = f"{x(value):.1f}"
        add(svg, "text", words, x=at, y=HEIGHT - 28, class_="tick", text_anchor=anchor)
    add(svg, "text", "bytes of all weights", x=WIDTH / 2, y=HEIGHT - 8, text_anchor="middle")
    line = " ".join(f"{x(p.bytes):.1f},{y(p.kl):.1f}" for p in front if p.kl > 0)
    add(svg, "polyline", points=line, class_="front")
    for point in shown:
        across, down = x(point.bytes), y(point.kl)
        if point in uniform:
            at, above = f"{across - 4:.1f}", f"{down - 4:.1f}"
            add(svg, "rect", x=at, y=above, width=8, height=8, class_="dot")
        elif point in chosen:
            kind = "measured" if "measured" in point.name else "mark"
            add(svg, "circle", cx=f"{across:.1f}", cy=f"{down:.1f}", r=6, class_=kind)
        if point.name:
            end = across > WIDTH - 150
            place = {"x": f"{across + (-9 if end else 9):.1f}", "y": f"{down - 7:.1f}"}
            add(svg, "text", point.name, **place, text_anchor="end" if end else "start")


def _line(svg: Element, x1: float, y1: float, x2: float, y2: float) -> None:
    ends: dict[str, Any] = {"x1": x1, "y1": f"{y1:.1f}", "x2": x2, "y2": f"{y2:.1f}"}
    add(svg, "line", class_="grid", **ends)


def _row(rows: Element, cells: Sequence[str]) -> None:
    row = add(rows, "tr")
    for cell in cells:
        add(row, "td", cell)
