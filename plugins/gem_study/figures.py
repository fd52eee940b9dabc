"""The plot of brittleness over size, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import attrs

from gem_study.records import Study, VariantStudy
from gem_tradeoff.analysis import Undefined
from gem_tradeoff.bootstrap import Estimate
from gem_tradeoff.figures import CHARACTER, plot_limits, ticks
from gem_tradeoff.words import gain_words, percent
from gemcore.page import add

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 22, 38


@attrs.frozen
class Point:
    """One precision in the plot: its size, and its brittleness as a share."""

    label: str
    x: float
    y: Estimate


def brittleness_points(study: Study, part: VariantStudy) -> tuple[str, list[Point]]:
    """What the horizontal axis shows, and the points; no points where a size is not known."""
    sizes = {one.label: one.size for one in study.precisions[1:]}
    if all(size.bits_per_weight is not None for size in sizes.values()):
        title = "bits a weight"
        places = {label: size.bits_per_weight for label, size in sizes.items()}
    else:
        title = "MB of weights"
        places = {
            label: None if size.bytes is None else size.bytes / 1e6 for label, size in sizes.items()
        }
    points = []
    for scores in part.precisions:
        x = places[scores.label]
        if x is None:
            return title, []
        if not isinstance(scores.brittleness, Undefined):
            points.append(Point(scores.label, x, scores.brittleness))
    return title, points


def point_plot(parent: Element, points: Sequence[Point], x_title: str, digits: int) -> Element:
    """Draw points with their intervals below `parent`: size across, brittleness up, both from 0."""
    svg = add(
        parent,
        "svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"brittleness in percent over {x_title}, a point for each precision",
    )
    right = 1.08 * max(point.x for point in points)
    top = plot_limits([point.y for point in points])[1]

    def across(x: float) -> float:
        return round(LEFT + x / right * (WIDTH - LEFT - RIGHT), 2)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM), 2)

    for tick in ticks(0.0, top):
        y = up(tick)
        kind = "zero" if tick == 0 else "grid"
        add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=kind)
        words = percent(tick, digits=2 if top < 0.04 else digits, sign=False)
        add(svg, "text", words, x=LEFT - 6, y=y + 4, text_anchor="end", class_="tick")
    for tick in ticks(0.0, right):
        x = across(tick)
        add(svg, "text", f"{tick:g}", x=x, y=up(0) + 14, text_anchor="middle", class_="tick")
    add(svg, "text", "brittleness, %", x=LEFT - 46, y=12, class_="tick")
    add(svg, "text", x_title, x=WIDTH - RIGHT, y=HEIGHT - 6, text_anchor="end", class_="tick")
    for point in points:
        _point(svg, point, across(point.x), [up(y) for y in _ends(point.y)], digits)
    return svg


def _ends(cell: Estimate) -> tuple[float, float, float]:
    return cell.value, cell.low, cell.high


def _point(svg: Element, point: Point, x: float, places: Sequence[float], digits: int) -> None:
    middle, low, high = places
    path = f"M{x - 4} {low}H{x + 4}M{x} {low}V{high}M{x - 4} {high}H{x + 4}"
    add(svg, "path", d=path, class_="interval")
    dot = add(svg, "circle", cx=x, cy=middle, r=4, class_="loss")
    add(dot, "title", f"{point.label}: {' '.join(gain_words(point.y, digits))}")
    # On the left where there is no room on the right.
    fits = x + 8 + CHARACTER * len(point.label) < WIDTH
    side: dict[str, object] = {"x": x + 8} if fits else {"x": x - 8, "text_anchor": "end"}
    add(svg, "text", point.label, y=middle - 6, **side)
