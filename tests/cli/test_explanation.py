"""What `gem run --explain` and `gem route` show, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser

import click
import numpy as np
import pytest

from gemcore.api import open_session
from gemcore.cli.explanation import PALETTE, explanation, ink, visible
from gemcore.cli.explanation_page import explanation_page
from gemcore.routes import Routes

PROMPT = "tell me a tale"
NASTY = ('<script>alert("1")</script>', "&amp;", "\x1b[31m", "\n", '" onmouseover="x', "plain")


@pytest.fixture(scope="module")
def gem(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "gemcore", *map(str, arguments)],
            env=os.environ | {"GEM_CACHE": str(cache)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def routes() -> Routes:
    weights = [[0.75, 0, 0.1], [0, 0, 0], [0, 0.25, 0], [0, 0.5, 0], [0, 0, 0.125], [1, 0, 0]]
    return Routes(
        token_ids=tuple(range(len(NASTY))),
        pieces=NASTY,
        experts=("code", "law", "<b>medicine"),
        weights=np.array(weights, np.float32),
        prior=np.array([0.5, 0.25, 0.0], np.float32),
    )


class Page(HTMLParser):
    """Tags with their attributes, and texts by the tag that they are in; every tag must be closed."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def test_the_table_counts_tokens_by_expert(routes):
    lines = list(explanation(routes, colour=False))
    assert [line.split() for line in lines[1:-1]] == [
        ["code", "0.500", "2", "2", "0.875"],
        ["law", "0.250", "2", "2", "0.375"],
        ["<b>medicine", "0.000", "1", "2", "0.113"],
        ["general", "path", "1"],
    ]
    assert lines[-1] == "1 of 6 tokens (16.7%) took the general path"
    assert "\x1b" not in "".join(lines)


def test_colours_show_the_text_and_the_same_table(routes):
    lines = list(explanation(routes, colour=True))
    plain = list(explanation(routes, colour=False))
    assert [click.unstyle(line) for line in lines[2:]] == plain
    text = lines[0]
    assert click.unstyle(text) == visible("".join(NASTY))
    assert "\x1b[31m" not in text
    red, green, blue = PALETTE[0]
    assert text.startswith(f"\x1b[38;2;0;0;0m\x1b[48;2;{red};{green};{blue}m<script>")
    # No colour runs on to the edge of the screen.
    assert text.count("\n") == 1
    assert all(line.endswith("\x1b[0m") for line in text.split("\n"))


def luminance(colour) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", PALETTE)
def test_text_on_every_colour_can_be_read(colour):
    """Large text needs a contrast of 3 by WCAG 2.2, other text 4.5."""
    low, high = sorted((luminance(colour), luminance(ink(colour))))
    assert (high + 0.05) / (low + 0.05) > 4.5


def test_the_page_is_whole_escaped_and_asks_for_nothing(routes):
    text = explanation_page(routes, [("Prompt", 4), ("Answer", 2)], ["tiny", "<i>router"])
    assert text.startswith("<!DOCTYPE html>\n")
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "b", "link", "img"} & set(names)
    assert "\x1b" not in text
    assert not any(name.startswith("on") for _, values in page.tags for name in values)
    assert "default-src 'none'" in text
    assert [data for tag, data in page.texts if tag == "h2"] == ["Prompt", "Answer"]
    shown = "".join(data for tag, data in page.texts if tag == "span")
    assert shown == visible("".join(NASTY))
    spans = [values for tag, values in page.tags if tag == "span"]
    assert [span["title"] for span in spans] == [
        "code 0.750, <b>medicine 0.100",
        "general path",
        "law 0.250",
        "law 0.500",
        "<b>medicine 0.125",
        "code 1.000",
    ]
    assert [span.get("class") for span in spans] == ["e0", None, "e1", "e1", "e2", "e0"]
    # Numbers, too, say who works, where it changes.
    assert [data for tag, data in page.texts if tag == "sup"] == ["1", "0", "2", "3", "1"]


def test_experts_beyond_the_palette_have_other_lines():
    count = len(PALETTE) + 1
    routes = Routes(
        token_ids=tuple(range(count)),
        pieces=("x",) * count,
        experts=tuple(f"e{i}" for i in range(count)),
        weights=np.eye(count, dtype=np.float32),
        prior=np.zeros(count, np.float32),
    )
    text = explanation_page(routes, [("Text", count)])
    colour = "rgba({},{},{},1.00)".format(*PALETTE[0])
    assert f".text .e0 {{ border-bottom: 3px solid {colour}; }}" in text
    assert f".text .e{count - 1} {{ border-bottom: 3px dotted {colour}; }}" in text
    lines = list(explanation(routes, colour=True))
    assert lines[0].count("\x1b[4m") == 1


def test_run_explains_prompt_and_answer(gem, routed_bundle, tmp_path):
    file = tmp_path / "page.html"
    command = ("run", "--bundle", routed_bundle.folder, "--max-tokens", 8, PROMPT)
    done = gem(*command, "--json", "--explain-html", file)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    routing, count = values["routing"], values["prompt_tokens"]
    assert len(routing["pieces"]) == len(routing["weights"]) == count + values["generated_tokens"]
    assert "".join(routing["pieces"][count:]) == values["text"]
    session = open_session(routed_bundle.folder, threads=1)
    prompt = session.encode_prompt(PROMPT)
    answer = session.generate(PROMPT, max_tokens=8).token_ids
    prior = session.prior_of(prompt)
    expected = session.routes([*prompt, *answer], prior.tolist())
    assert routing == expected.to_json()
    assert str(file) in done.stderr
    page = Page(file.read_text(encoding="utf-8"))
    shown = "".join(data for tag, data in page.texts if tag == "span")
    assert shown == visible("".join(expected.pieces))
    # Not a terminal: the answer, then a table without colours.
    plain = gem(*command, "--explain")
    assert plain.returncode == 0, plain.stderr
    table = list(explanation(expected, colour=False))
    assert plain.stdout.rstrip("\n").split("\n")[-len(table) :] == table
    assert plain.stdout.startswith(values["text"])
    assert "\x1b" not in plain.stdout


def test_route_shows_prior_weights_and_time(gem, routed_bundle):
    done = gem("route", "--bundle", routed_bundle.folder, "--repeat", 2, "--json", PROMPT)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    session = open_session(routed_bundle.folder, threads=1)
    expected = session.routes(session.encode_prompt(PROMPT))
    assert values["routing"] == expected.to_json()
    assert values["router"] == "signs"
    assert values["timing"]["repetitions"] == 2
    assert values["timing"]["prior_ms"] > 0
    plain = gem("route", "--bundle", routed_bundle.folder, "--no-chat", PROMPT)
    assert plain.returncode == 0, plain.stderr
    table = list(
        explanation(session.routes(session.encode_prompt(PROMPT, chat=False)), colour=False)
    )
    lines = plain.stdout.splitlines()
    assert lines[: len(table)] == table
    assert lines[-2].endswith("once a request")
    assert lines[-1].endswith("ms a token")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "--explain"],
            "router 'none' has no experts, so every token takes the general path",
        ),
        (["run", "--explain-html", "page.html"], "router 'none' has no experts"),
        (["run", "--explain-html", "nowhere/page.html"], "there is no folder nowhere"),
        (["route"], "router 'none' has no experts"),
        (["route", "--repeat", "0"], "at least 1 repetition, not 0"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(gem, tiny_bundle, words, message):
    done = gem(*words, "--bundle", tiny_bundle.folder, PROMPT)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("gem: ")
    assert message in line


def test_a_text_is_routed_by_scar_where_no_router_is_named(gem, tiny_folder):
    done = gem("route", "--model", tiny_folder, PROMPT)
    assert done.returncode == 2, done.stderr
    # That router's own experts are for another model, which only it says.
    assert "smollm2-135m" in done.stderr
    assert "router 'none'" not in done.stderr
