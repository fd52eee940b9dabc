"""`gem targets`: what is installed, what can be done here, and what each device is."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from gemcore.cli.targets import targets
from gemcore.errors import UsageError
from gemcore.plugins import get_host

NAMES = sorted(record.name for record in get_host().targets())


def run(*words):
    done = CliRunner().invoke(targets, words, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_list_has_every_target_with_what_can_be_done_here():
    rows = {line.split()[0]: line for line in run("list").splitlines()}
    assert sorted(rows) == NAMES
    assert "runs here, native" in rows["host"]
    found = {row["name"]: row for row in json.loads(run("list", "--json"))}
    assert sorted(found) == NAMES
    assert (found["host"]["execution"], found["host"]["run"]) == ("native", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_target_says_what_its_device_is_and_where_the_figures_are_from(name):
    values = json.loads(run("show", name, "--json"))
    profile = values["profile"]
    assert profile["cores"] >= 1
    figures = {key: figure for key, figure in profile.items() if isinstance(figure, dict)}
    assert figures
    for figure in figures.values():
        assert figure["value"] > 0
        assert figure["source"].strip()
    shown = run("show", name)
    for figure in figures.values():
        assert figure["source"] in shown


def test_an_unknown_target_is_an_error_with_the_names_that_exist():
    with pytest.raises(UsageError, match="unknown target 'rpi5'.* did you mean 'rpi4'"):
        CliRunner().invoke(targets, ["show", "rpi5"], catch_exceptions=False)
