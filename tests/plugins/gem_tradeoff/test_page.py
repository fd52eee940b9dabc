"""The page: whole, self-contained, safe, and with every number of the report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_tradeoff.analysis import Undefined, analyse
from gem_tradeoff.bootstrap import Estimate
from gem_tradeoff.colour import DARK, LIGHT, contrast, css, diverging, ink, scale_limit
from gem_tradeoff.figures import bar_plot, plot_limits, ticks
from gem_tradeoff.page import tradeoff_page
from gem_tradeoff.results import parse_results
from gem_tradeoff.words import gain_words, measure_words, percent

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Reader(HTMLParser):
    """Checks that tags are nested, and collects text, tags and attributes."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def make_report(make, **options):
    files = [
        parse_results(make(n, own=own, **options), f"file{n}.json")
        for n, own in enumerate((None, "law", "stem"))
    ]
    return analyse(files[0], [(file, None) for file in files[1:]], resamples=100)


def test_the_page_holds_every_number(make):
    report = make_report(make)
    page = tradeoff_page(report)
    reader = read(page)
    text = "\n".join(reader.words)
    for part in report.variants:
        for model in part.models:
            for cell in model.gains.values():
                for words in gain_words(cell, part.variant.digits):
                    assert words in text
            for name, cell in model.measures.items():
                for words in measure_words(name, cell, part.variant.digits):
                    assert words in text
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("svg") == 4
    assert tags.count("rect") == 12
    heat = [
        attrs for tag, attrs in reader.tags if tag == "td" and "--light" in attrs.get("style", "")
    ]
    assert len(heat) == 12
    assert sum("own" in attrs.get("class", "").split() for attrs in heat) == 4


def test_the_page_asks_for_nothing(make):
    reader = read(tradeoff_page(make_report(make)))
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    for _, attrs in reader.tags:
        assert attrs.keys().isdisjoint({"src", "href", "xlink:href", "srcset"})
    policies = [a["content"] for _, a in reader.tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    style = "".join(reader.words)
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", style)


def test_names_cannot_become_tags(make):
    evil = "<script>alert('1')</script>\"'&"
    report = make_report(make, model=evil)
    reader = read(tradeoff_page(report))
    assert "script" not in {tag for tag, _ in reader.tags}
    assert any(evil in words for words in reader.words)


def test_what_is_undefined_is_said(make):
    tasks = {"law": {"guessed": ("acc", 0.5)}, "stem": {"sums": ("acc", 0.25)}}
    report = make_report(make, level=0.5, tasks=tasks)
    reader = read(tradeoff_page(report))
    undefined = [a for tag, a in reader.tags if tag == "td" and "undefined" in a.get("class", "")]
    assert len(undefined) == 2
    assert all("too near zero" in attrs["title"] for attrs in undefined)
    assert any(words.startswith("Undefined: score above chance on law") for words in reader.words)


def test_bars_end_where_their_values_are(make):
    model = make_report(make).variants[0].models[0]
    limits = plot_limits(model.gains.values())
    svg = bar_plot(Element("figure"), model, limits, 1)
    bars = svg.findall("rect")
    zero = next(line for line in svg.findall("line") if line.get("class") == "zero")
    origin = float(zero.get("x1"))
    scale = {
        round((float(bar.get("width")) / abs(cell.value)) / 100, 1)
        for bar, cell in zip(bars, model.gains.values(), strict=True)
        if abs(cell.value) > 0.05
    }
    assert len(scale) == 1
    for bar, cell in zip(bars, model.gains.values(), strict=True):
        start = float(bar.get("x"))
        end = start + float(bar.get("width"))
        assert (start if cell.value > 0 else end) == pytest.approx(origin, abs=0.02)
        assert bar.get("class") == ("gain" if cell.value > 0 else "loss")


shares = st.floats(-2, 2)


@pytest.mark.parametrize("stops", [LIGHT, DARK])
def test_numbers_can_be_read_on_every_colour(stops):
    for step in range(-1000, 1001):
        background = diverging(step / 1000, 1.0, stops)
        assert re.fullmatch("#[0-9a-f]{6}", css(background))
        assert contrast(background, ink(background)) >= 4.5


def test_contrast_is_that_of_wcag():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("stops", [LIGHT, DARK])
def test_the_scale_has_a_neutral_middle_and_both_ends(stops):
    assert diverging(0, 0.3, stops) == stops[3]
    assert diverging(-0.3, 0.3, stops) == diverging(-9, 0.3, stops) == stops[0]
    assert diverging(0.3, 0.3, stops) == stops[-1]
    assert diverging(0.0, 0.0, stops) == stops[3]


@given(st.lists(st.floats(-10, 10), max_size=5))
def test_no_value_is_beyond_the_scale(values):
    limit = scale_limit(values)
    largest = max((abs(value) for value in values), default=0)
    assert limit > 0
    assert limit >= largest * (1 - 1e-6)
    assert limit <= max(0.001, 2 * largest) * (1 + 1e-6)


@given(st.floats(-5, 0), st.floats(0.001, 5))
def test_ticks_are_few_round_and_include_zero(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 5
    assert 0 in found
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


@given(shares)
def test_percentages(share):
    assert float(percent(share)) == pytest.approx(100 * share, abs=0.0501)
    assert percent(share) != "-0.0"


def test_words():
    assert percent(0.1234) == "+12.3"
    assert percent(-0.00001) == "0.0"
    assert percent(0.1234, digits=2, sign=False) == "12.34"
    cell = Estimate(0.1, -0.05, 0.2)
    assert gain_words(cell, 1) == ("+10.0 %", "-5.0 to +20.0")
    assert measure_words("cdtr", cell, 1) == ("0.100", "-0.050 to 0.200")
    assert measure_words("gg", cell, 2) == ("+0.1000", "-0.0500 to +0.2000")
    assert measure_words("forgetting", cell, 1) == ("10.0 %", "-5.0 to 20.0")
    assert measure_words("dsi", Undefined("no"), 1) == ("undefined", "")
