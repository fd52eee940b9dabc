"""The trade-off as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from gem_tradeoff.analysis import (
    MEASURES,
    Cell,
    ModelTradeoff,
    Tradeoff,
    Undefined,
    VariantTradeoff,
)
from gem_tradeoff.colour import DARK, LIGHT, css, diverging, ink, scale_limit
from gem_tradeoff.figures import bar_plot, plot_limits
from gem_tradeoff.style import CSS
from gem_tradeoff.words import (
    MEANINGS,
    TITLES,
    UNDEFINED,
    gain_words,
    measure_words,
    name_words,
    percent,
    plain_words,
)
from gemcore.page import add, add_table, new_page, written

_SWATCHES = 13


def tradeoff_page(report: Tradeoff) -> str:
    """Write the page: heat map, bar plots and tables for each variant, and what the words mean."""
    html, body = new_page(f"Trade-off of {report.base}", CSS)
    add(body, "h1", f"What specialising {report.base} did")
    add(
        body,
        "p",
        "Specialised models against their base. Figures after a value are "
        f"95 % intervals, from {report.resamples} paired bootstrap resamples of the items.",
        class_="faint",
    )
    for part in report.variants:
        _variant(body, part)
    for sentence in report.missing:
        add(body, "p", f"Not shown: {sentence}.")
    add(body, "h2", "What the measures mean")
    meanings = add(body, "dl")
    for name in MEASURES:
        add(meanings, "dt", TITLES[name])
        add(meanings, "dd", MEANINGS[name])
    add(
        body,
        "p",
        "The measures are named in arXiv 2503.22698; the formulas are GEM's. Where a base's score "
        "is too near zero to divide by, relative measures are undefined.",
        class_="faint",
    )
    return written(html)


def _variant(body: Element, part: VariantTradeoff) -> None:
    section = add(body, "section")
    add(section, "h2", part.variant.title)
    sense = "fewer are better" if part.variant.lower_is_better else "more is better"
    add(section, "p", f"Measured in {part.variant.unit}; {sense}.", class_="faint")
    add(section, "h3", "Gain over the base, in %")
    _heat_map(section, part)
    add(section, "h3", "Measures")
    _measures(section, part)
    for reason in part.reasons:
        add(section, "p", f"{UNDEFINED.capitalize()}: {reason}.", class_="faint")
    add(section, "h3", "Gain by domain, in %, with intervals")
    panels = add(section, "div", class_="panels")
    # One axis for all, so that bars of different models can be set against each other.
    limits = plot_limits([cell for model in part.models for cell in model.gains.values()])
    for model in part.models:
        figure = add(panels, "figure")
        add(figure, "figcaption", f"specialised for {name_words(model.label)}")
        bar_plot(figure, model, limits, part.variant.digits)
    _scores(section, part)


def _heat_map(section: Element, part: VariantTradeoff) -> None:
    cells = [cell for model in part.models for cell in model.gains.values()]
    limit = scale_limit([cell.value for cell in cells if not isinstance(cell, Undefined)])
    rows = add_table(section, ["specialised for", *map(name_words, part.domains)], "heat")
    for model in part.models:
        row = add(rows, "tr")
        add(row, "th", name_words(model.label), scope="row")
        for name in part.domains:
            _heat_cell(row, model, name, limit, part.variant.digits)
    scale = add(section, "div", class_="scale")
    add(scale, "span", f"{percent(-limit)} %")
    swatches = add(scale, "span", class_="swatches", aria_hidden="true")
    for number in range(_SWATCHES):
        value = limit * (2 * number / (_SWATCHES - 1) - 1)
        add(swatches, "i", style=_colours(value, limit))
    add(scale, "span", f"{percent(limit)} %")
    add(section, "p", "Bold: the interval excludes 0. Framed: the own domain.", class_="faint")


def _heat_cell(row: Element, model: ModelTradeoff, name: str, limit: float, digits: int) -> None:
    cell = model.gains[name]
    classes = ["own"] if name == model.domain else []
    if isinstance(cell, Undefined):
        classes.append("undefined")
        add(row, "td", "-", class_=" ".join(classes), title=cell.reason)
        return
    if cell.excludes_zero:
        classes.append("clear")
    place = add(row, "td", percent(cell.value, digits=digits), style=_colours(cell.value, limit))
    if classes:
        place.set("class", " ".join(classes))
    add(place, "small", gain_words(cell, digits)[1])


def _colours(value: float, limit: float) -> str:
    parts = []
    for name, stops in (("light", LIGHT), ("dark", DARK)):
        background = diverging(value, limit, stops)
        parts.append(f"--{name}:{css(background)};--{name}-ink:{css(ink(background))}")
    return ";".join(parts)


def _measures(section: Element, part: VariantTradeoff) -> None:
    rows = add_table(section, ["specialised for", *(TITLES[name] for name in MEASURES)], "list")
    for model in part.models:
        row = add(rows, "tr")
        add(row, "th", name_words(model.label), scope="row")
        for name in MEASURES:
            cell = model.measures[name]
            _value(row, cell, *measure_words(name, cell, part.variant.digits))


def _scores(section: Element, part: VariantTradeoff) -> None:
    details = add(section, "details")
    add(details, "summary", "The scores, and the tasks behind them")
    heads = ["domain", "base", *(name_words(model.label) for model in part.models)]
    rows = add_table(details, heads, "list")
    for name in part.domains:
        row = add(rows, "tr")
        place = add(row, "th", name_words(name), scope="row")
        add(place, "small", _count(part.tasks[name]), title=", ".join(part.tasks[name]))
        for scores in (part.base, *(model.scores for model in part.models)):
            _value(row, scores[name], *plain_words(scores[name], digits=part.variant.digits + 2))


def _count(tasks: tuple[str, ...]) -> str:
    return f"{len(tasks)} task" + "s" * (len(tasks) != 1)


def _value(row: Element, cell: Cell, value: str, interval: str) -> None:
    place = add(row, "td", value)
    if isinstance(cell, Undefined):
        place.set("title", cell.reason)
    else:
        add(place, "small", interval)
