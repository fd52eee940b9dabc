"""A study as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from gem_study.figures import brittleness_points, point_plot
from gem_study.markup import STYLE, row
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
from gem_tradeoff.figures import bar_plot, plot_limits
from gem_tradeoff.words import UNDEFINED, gain_words, name_words, percent, plain_words
from gemcore.page import add, add_table, new_page, written


def study_page(study: Study) -> str:
    """Write the page: sizes, then for each variant matrix, measures, plots and scores."""
    html, body = new_page(f"Compression of {study.model}", STYLE)
    add(body, "h1", f"What compressing {study.model} did")
    add(
        body,
        "p",
        f"Precisions against {study.reference}. Figures after a value are 95 % intervals, from "
        f"{study.resamples} paired bootstrap resamples of the items.",
        class_="faint",
    )
    rows = add_table(body, ["precision", "MB of weights", "bits a weight", "compression"], "list")
    for one in study.precisions:
        row(rows, one.label, [(words, "") for words in size_words(one)])
    for part in study.variants:
        _variant(body, study, part)
    for sentence in study.missing:
        add(body, "p", f"Not shown: {sentence}.")
    add(body, "h2", "What the words mean")
    meanings = add(body, "dl")
    for word, meaning in MEANINGS.items():
        add(meanings, "dt", word)
        add(meanings, "dd", meaning)
    return written(html)


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
    rows = add_table(section, ["precision", *MEASURE_HEADS], "list")
    for scores in part.precisions:
        row(rows, scores.label, scores_words(scores, digits))
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
    rows = add_table(section, ["precision", *map(name_words, part.domains)], "heat")
    for scores in part.precisions:
        line = add(rows, "tr")
        add(line, "th", scores.label, scope="row")
        for name in part.domains:
            _heat_cell(line, scores.gains[name], limit, digits)
    add(section, "p", "Bold: the interval excludes 0. Blue: better, brown: worse.", class_="faint")


def _heat_cell(line: Element, cell: Cell, limit: float, digits: int) -> None:
    if isinstance(cell, Undefined):
        add(line, "td", "-", class_="undefined", title=cell.reason)
        return
    place = add(line, "td", percent(cell.value, digits=digits), style=_colours(cell.value, limit))
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
    rows = add_table(section, ["compression with", "rho"], "list")
    reasons = []
    for name in CORRELATED:
        cell = part.correlations[name]
        if isinstance(cell, Undefined):
            row(rows, CORRELATION_TITLES[name], [(UNDEFINED, "")])
            reasons.append(cell.reason)
        else:
            row(rows, CORRELATION_TITLES[name], [plain_words(cell, digits=2, sign=True)])
    for reason in dict.fromkeys(reasons):
        add(section, "p", f"{UNDEFINED.capitalize()}: {reason}.", class_="faint")


def _scores(section: Element, study: Study, part: VariantStudy) -> None:
    details = add(section, "details")
    add(details, "summary", "The scores, their differences, and the tasks behind them")
    digits = part.variant.digits + 2
    heads = ["domain", study.reference]
    for scores in part.precisions:
        heads += [scores.label, "difference"]
    rows = add_table(details, heads, "list")
    for name in part.domains:
        words = [plain_words(part.reference[name], digits=digits)]
        for scores in part.precisions:
            words.append(plain_words(scores.scores[name], digits=digits))
            words.append(plain_words(scores.differences[name], digits=digits, sign=True))
        head = row(rows, name_words(name), words)
        tasks = part.tasks[name]
        count = f"{len(tasks)} task" + "s" * (len(tasks) != 1)
        add(head, "small", count, title=", ".join(tasks))
