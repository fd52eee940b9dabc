"""A study as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from gem_study.figures import brittleness_points, point_plot
from gem_study.records import CORRELATED, PrecisionScores, Study, VariantStudy
from gem_study.words import (
    CORRELATION_TITLES,
    MEANINGS,
    MEASURE_HEADS,
    scores_words,
    size_words,
)
from gem_tradeoff.analysis import Cell, ModelTradeoff, Undefined
from gem_tradeoff.colour import DARK, LIGHT, css, diverging, ink, scale_limit
from gem_tradeoff.figures import add, bar_plot, plot_limits
from gem_tradeoff.style import CSS
from gem_tradeoff.words import UNDEFINED, gain_words, name_words, percent, plain_words

_STYLE = CSS + "figure.wide { max-width: 32rem; } table.heat, table.list { min-width: 0; }\n"


def study_page(study: Study) -> str:
    """Write the page: sizes, then for each variant matrix, measures, plots and scores."""
    html = Element("html", {"lang": "en"})
    _head(html, f"Compression of {study.model}")
    body = add(html, "body")
    add(body, "h1", f"What compressing {study.model} did")
    add(
        body,
        "p",
        f"Precisions against {study.reference}. Figures after a value are 95 % intervals, from "
        f"{study.resamples} paired bootstrap resamples of the items.",
        class_="faint",
    )
    rows = _table(body, "list", ["precision", "MB of weights", "bits a weight", "compression"])
    for one in study.precisions:
        _row(rows, one.label, [(words, "") for words in size_words(one)])
    for part in study.variants:
        _variant(body, study, part)
    for sentence in study.missing:
        add(body, "p", f"Not shown: {sentence}.")
    add(body, "h2", "What the words mean")
    meanings = add(body, "dl")
    for word, meaning in MEANINGS.items():
        add(meanings, "dt", word)
        add(meanings, "dd", meaning)
    return "<!DOCTYPE html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def _head(html: Element, title: str) -> None:
    head = add(html, "head")
    add(head, "meta", charset="utf-8")
    # The browser itself then refuses whatever this page might ask for.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "meta", name="color-scheme", content="light dark")
    add(head, "title", title)
    add(head, "style", _STYLE)


def _variant(body: Element, study: Study, part: VariantStudy) -> None:
    digits = part.variant.digits
    section = add(body, "section")
    add(section, "h2", part.variant.title)
    sense = "fewer are better" if part.variant.lower_is_better else "more is better"
    add(section, "p", f"Measured in {part.variant.unit}; {sense}.", class_="faint")
    add(section, "h3", f"Change against {study.reference}, in %")
    _heat_map(section, part)
    for reason in part.left_out.values():
        add(section, "p", f"Left out: {reason}.", class_="faint")
    add(section, "h3", "Measures")
    rows = _table(section, "list", ["precision", *MEASURE_HEADS])
    for scores in part.precisions:
        _row(rows, scores.label, scores_words(scores, digits))
    title, points = brittleness_points(study, part)
    if points:
        add(section, "h3", f"Brittleness over {title}")
        point_plot(add(section, "figure", class_="wide"), points, title, digits)
    add(section, "h3", "Rank correlation of compression with the measures")
    _correlations(section, part)
    add(section, "h3", "Change by domain, in %, with intervals")
    panels = add(section, "div", class_="panels")
    # One axis for all, so that bars of different precisions can be set against each other.
    limits = plot_limits([cell for scores in part.precisions for cell in scores.gains.values()])
    for scores in part.precisions:
        figure = add(panels, "figure")
        add(figure, "figcaption", scores.label)
        bar_plot(figure, _as_model(scores), limits, digits)
    _scores(section, study, part)


def _as_model(scores: PrecisionScores) -> ModelTradeoff:
    """A precision as a model that is specialised for nothing, which is how bars are drawn."""
    return ModelTradeoff(
        label=scores.label, domain="", scores=scores.scores, gains=scores.gains, measures={}
    )


def _heat_map(section: Element, part: VariantStudy) -> None:
    digits = part.variant.digits
    cells = [cell for scores in part.precisions for cell in scores.gains.values()]
    limit = scale_limit([cell.value for cell in cells if not isinstance(cell, Undefined)])
    rows = _table(section, "heat", ["precision", *map(name_words, part.domains)])
    for scores in part.precisions:
        row = add(rows, "tr")
        add(row, "th", scores.label, scope="row")
        for name in part.domains:
            _heat_cell(row, scores.gains[name], limit, digits)
    add(section, "p", "Bold: the interval excludes 0. Blue: better, brown: worse.", class_="faint")


def _heat_cell(row: Element, cell: Cell, limit: float, digits: int) -> None:
    if isinstance(cell, Undefined):
        add(row, "td", "-", class_="undefined", title=cell.reason)
        return
    place = add(row, "td", percent(cell.value, digits=digits), style=_colours(cell.value, limit))
    if cell.excludes_zero:
        place.set("class", "clear")
    add(place, "small", gain_words(cell, digits)[1])


def _colours(value: float, limit: float) -> str:
    parts = []
    for name, stops in (("light", LIGHT), ("dark", DARK)):
        background = diverging(value, limit, stops)
        parts.append(f"--{name}:{css(background)};--{name}-ink:{css(ink(background))}")
    return ";".join(parts)


def _correlations(section: Element, part: VariantStudy) -> None:
    rows = _table(section, "list", ["compression with", "rho"])
    reasons = []
    for name in CORRELATED:
        cell = part.correlations[name]
        if isinstance(cell, Undefined):
            _row(rows, CORRELATION_TITLES[name], [(UNDEFINED, "")])
            reasons.append(cell.reason)
        else:
            _row(rows, CORRELATION_TITLES[name], [plain_words(cell, digits=2, sign=True)])
    for reason in dict.fromkeys(reasons):
        add(section, "p", f"{UNDEFINED.capitalize()}: {reason}.", class_="faint")


def _scores(section: Element, study: Study, part: VariantStudy) -> None:
    details = add(section, "details")
    add(details, "summary", "The scores, their differences, and the tasks behind them")
    digits = part.variant.digits + 2
    heads = ["domain", study.reference]
    for scores in part.precisions:
        heads += [scores.label, "difference"]
    rows = _table(details, "list", heads)
    for name in part.domains:
        words = [plain_words(part.reference[name], digits=digits)]
        for scores in part.precisions:
            words.append(plain_words(scores.scores[name], digits=digits))
            words.append(plain_words(scores.differences[name], digits=digits, sign=True))
        head = _row(rows, name_words(name), words)
        tasks = part.tasks[name]
        count = f"{len(tasks)} task" + "s" * (len(tasks) != 1)
        add(head, "small", count, title=", ".join(tasks))


def _row(rows: Element, title: str, cells: Sequence[tuple[str, str]]) -> Element:
    """A row of values with their intervals; returns its heading."""
    row = add(rows, "tr")
    head = add(row, "th", title, scope="row")
    for value, interval in cells:
        place = add(row, "td", value)
        if interval:
            add(place, "small", interval)
    return head


def _table(section: Element, kind: str, heads: Sequence[str]) -> Element:
    # Reachable by keyboard, so that a narrow screen can scroll it.
    scroll = add(section, "div", class_="scroll", tabindex="0")
    table = add(scroll, "table", class_=kind)
    row = add(add(table, "thead"), "tr")
    for head in heads:
        add(row, "th", head, scope="col")
    return add(table, "tbody")
