"""Bar plots as inline SVG: the gains of one model, a bar and an interval for each domain."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement

from gem_tradeoff.analysis import Cell, ModelTradeoff, Undefined
from gem_tradeoff.words import UNDEFINED, gain_words, name_words, percent
from gemcore.page import add

WIDTH = 420
FIGURES = 58
CHARACTER = 6.6

ROW = 24
TOP = 6
BOTTOM = 20


def plot_limits(cells: Iterable[Cell]) -> tuple[float, float]:
    """The ends of the axis: what holds every value, every interval and 0."""
    known = [cell for cell in cells if not isinstance(cell, Undefined)]
    low = min([0.0, *(min(cell.low, cell.value) for cell in known)])
    high = max([0.0, *(max(cell.high, cell.value) for cell in known)])
    margin = 0.04 * (high - low) or 0.01
    return low - margin, high + margin


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between low and high, at most `most` of them; 0 is one where it lies inside."""
    step = next(
        factor * 10.0**power
        for power in range(-6, 300)
        for factor in (1, 2, 5)
        if (high - low) / (factor * 10.0**power) <= most - 1
    )
    first = -int(-low // step)
    found = []
    while (value := first * step) <= high:
        found.append(value)
        first += 1
    return found


def _tick_digits(span: float) -> int:
    """Decimals of percentages that keep ticks apart, none where the axis is wide."""
    return 0 if span > 0.04 else 1 if span > 0.004 else 2


def bar_plot(
    parent: Element, model: ModelTradeoff, limits: tuple[float, float], digits: int
) -> Element:
    """Draw the gains of one model below `parent`; `limits` are the ends of the axis, `digits` decimals."""
    height = TOP + ROW * len(model.gains) + BOTTOM
    title = f"gain over the base by domain, in percent, of the model for {name_words(model.label)}"
    svg = SubElement(
        parent,
        "svg",
        {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria-label": title},
    )
    low, high = limits
    label_width = 12 + CHARACTER * max(len(name) for name in model.gains)

    def across(value: float) -> float:
        share = (value - low) / (high - low)
        return round(label_width + share * (WIDTH - label_width - FIGURES), 2)

    end = TOP + ROW * len(model.gains)
    for tick in ticks(low, high):
        x = across(tick)
        kind = "zero" if tick == 0 else "grid"
        add(svg, "line", x1=x, x2=x, y1=TOP, y2=end, class_=kind)
        words = percent(tick, digits=_tick_digits(high - low))
        add(svg, "text", words, x=x, y=end + 14, text_anchor="middle", class_="tick")
    for number, (name, cell) in enumerate(model.gains.items()):
        middle = TOP + ROW * number + ROW / 2
        style = {"class": "own"} if name == model.domain else {}
        place = {"x": f"{label_width - 6:.1f}", "y": str(middle + 4), "text-anchor": "end"}
        SubElement(svg, "text", {**place, **style}).text = name_words(name)
        value, interval = gain_words(cell, digits)
        if isinstance(cell, Undefined):
            words = UNDEFINED
        else:
            words = value
            bar = _bar(svg, across(cell.value), across(0), middle, cell.value > 0)
            add(bar, "title", f"{name_words(name)}: {value} ({interval})")
            _interval(svg, across(cell.low), across(cell.high), middle)
        add(svg, "text", words, x=WIDTH, y=middle + 4, text_anchor="end", class_="figure")
    return svg


def _bar(svg: Element, x: float, zero: float, middle: float, rises: bool) -> Element:
    return add(
        svg,
        "rect",
        x=min(x, zero),
        y=middle - 7,
        width=round(abs(x - zero), 2),
        height=14,
        class_="gain" if rises else "loss",
    )


def _interval(svg: Element, low: float, high: float, middle: float) -> None:
    path = (
        f"M{low} {middle - 4}V{middle + 4}M{low} {middle}H{high}M{high} {middle - 4}V{middle + 4}"
    )
    add(svg, "path", d=path, class_="interval")
