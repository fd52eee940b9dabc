"""The page and the text: whole, self-contained, safe, and with every number of the study."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree.ElementTree import Element

import attrs
import click
import pytest

from gem_study.analysis import study_compression
from gem_study.figures import Point, brittleness_points, point_plot
from gem_study.page import study_page
from gem_study.records import ModelSize
from gem_study.text import study_lines
from gem_study.words import scores_words, size_words
from gem_tradeoff.bootstrap import Estimate
from gem_tradeoff.words import gain_words

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


@pytest.fixture
def study(measured):
    return study_compression(measured, resamples=100)


def test_page_and_text_hold_every_number(study):
    reader = read(study_page(study))
    page = "\n".join(reader.words)
    text = click.unstyle("\n".join(study_lines(study, 120)))
    for one in study.precisions:
        for words in size_words(one):
            assert words in page
            assert words in text
    for part in study.variants:
        digits = part.variant.digits
        for scores in part.precisions:
            for value, interval in scores_words(scores, digits):
                assert value in page
                assert value in text
                assert interval in page
                assert interval in text
            for cell in scores.gains.values():
                assert gain_words(cell, digits)[1] in page
    tags = [tag for tag, _ in reader.tags]
    # For each variant a plot of points, and bars for each of three precisions.
    assert tags.count("svg") == 3 * (1 + 3)
    assert tags.count("circle") == 3 * 3


def test_the_page_asks_for_nothing(study):
    reader = read(study_page(study))
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    for _, attributes in reader.tags:
        assert attributes.keys().isdisjoint({"src", "href", "xlink:href", "srcset"})
    policies = [a["content"] for _, a in reader.tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not re.search(r"https?://|url\(|@import", "".join(reader.words))


def test_names_cannot_become_tags(study):
    evil = "<script>alert('1')</script>\"'&"
    first, *others = study.precisions
    reader = read(
        study_page(
            attrs.evolve(study, model=evil, precisions=(attrs.evolve(first, label=evil), *others))
        )
    )
    assert "script" not in {tag for tag, _ in reader.tags}
    assert any(evil in words for words in reader.words)


def test_what_is_undefined_or_missing_is_said(measured):
    measured[0] = attrs.evolve(measured[0], size=ModelSize())
    study = study_compression(measured, domains=["law"], resamples=100)
    study = attrs.evolve(study, missing=("something",))
    text = "\n".join(study_lines(study))
    for whole in (study_page(study), click.unstyle(text)):
        assert "f16.json does not say how many bytes" in whole
        assert "undefined" in whole
        assert "shown: something" in whole
    assert "circle" not in study_page(study)


def test_columns_are_numbered_where_names_do_not_fit(study):
    narrow = "\n".join(study_lines(study, 30))
    assert "1 healthcare, 2 law, 3 stem" in narrow
    assert "1 healthcare" not in "\n".join(study_lines(study, 120))


def test_points_stand_where_their_numbers_are():
    points = [
        Point("coarse", 4.0, Estimate(0.2, 0.1, 0.4)),
        Point("fine", 8.0, Estimate(0.1, 0.0, 0.2)),
    ]
    svg = point_plot(Element("figure"), points, "bits a weight", 1)
    coarse, fine = svg.findall("circle")
    zero = next(line for line in svg.findall("line") if line.get("class") == "zero")
    left, bottom = float(zero.get("x1")), float(zero.get("y1"))
    across = [float(dot.get("cx")) - left for dot in (coarse, fine)]
    up = [bottom - float(dot.get("cy")) for dot in (coarse, fine)]
    assert across[1] == pytest.approx(2 * across[0], abs=0.05)
    assert up[0] == pytest.approx(2 * up[1], abs=0.05)
    path = svg.findall("path")[0].get("d")
    low, high = (bottom - float(y) for y in re.match(r"M\S+ (\S+)H.*V([\d.]+)M", path).groups())
    assert (low, high) == pytest.approx((up[1], 2 * up[0]), abs=0.05)


def test_size_is_in_megabytes_where_bits_are_not_known(measured):
    measured = [attrs.evolve(m, size=ModelSize(bytes=m.size.bytes)) for m in measured]
    study = study_compression(measured, variants=["text"], resamples=100)
    title, points = brittleness_points(study, study.variants[0])
    assert title == "MB of weights"
    assert [point.x for point in points] == [145, 93, 89]
