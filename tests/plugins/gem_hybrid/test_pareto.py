"""The front and its page."""

import re
from html.parser import HTMLParser

from gem_hybrid.assignment import Choice
from gem_hybrid.page import pareto_page
from gem_hybrid.pareto import Point, front, uniform
from gem_hybrid.sensitivity import UnitChoices
from gemcore.reports import Plan, PlanEntry

TABLE = [
    UnitChoices(
        unit=f"unit{i}",
        weights=1024,
        choices=(
            Choice(scheme="q4s-g32", bytes=576, error=0.01 * (i + 1)),
            Choice(scheme="q8-g32", bytes=1088, error=1e-5),
            Choice(scheme="f16", bytes=2048, error=0.0),
        ),
    )
    for i in range(6)
]
PLAN = Plan(
    quantizer="hybrid:bits=5",
    entries=(PlanEntry(unit="<unit>", scheme="q8-g32", reason="a & b", bytes=1088),),
)


def test_the_front_falls():
    points = front(TABLE)
    assert [p.bytes for p in points] == sorted({p.bytes for p in points})
    assert [p.kl for p in points] == sorted((p.kl for p in points), reverse=True)
    assert points[0].bytes == 6 * 576
    assert points[-1].bytes <= 6 * 1088


def test_uniform_points_are_the_groupwise_schemes():
    points = uniform(TABLE)
    assert [point.name for point in points] == ["q4s-g32", "q8-g32"]
    assert points[0].bytes == 6 * 576
    mixed = [*TABLE, UnitChoices(unit="x", weights=1, choices=TABLE[0].choices[2:])]
    assert uniform(mixed) == []


def test_the_page_is_well_formed_and_escapes():
    opened = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            opened.append(tag)

    chosen = [Point(bytes=4000, kl=0.02, name="this plan, measured")]
    page = pareto_page("<model>", PLAN, front(TABLE), uniform(TABLE), chosen)
    Reader().feed(page)
    assert opened.count("rect") == 2
    assert opened.count("circle") == 1
    assert "script" not in opened
    assert "&lt;unit&gt;" in page
    assert "a &amp; b" in page
    numbers = re.findall(r'(?:cx|cy|x|y)="(-?[\d.]+)"', page)
    assert all(-20 <= float(number) <= 760 for number in numbers)


def test_a_model_without_loss_has_a_page():
    free = [Point(bytes=100, kl=0.0)]
    assert "No plan of this model loses anything" in pareto_page("m", PLAN, free, [], free)
