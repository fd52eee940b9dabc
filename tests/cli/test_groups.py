"""Commands of plugins within GEM's own groups."""

import sys
from importlib.metadata import EntryPoint

import click
import pytest

from gemcore.cli.main import main
from gemcore.discovery import Entry


def entry(name, value, distribution="my-plugin"):
    return Entry(
        group="gem.commands",
        name=name,
        distribution=distribution,
        version="1.0",
        point=EntryPoint(name, value, "gem.commands"),
    )


@click.command()
def mine():
    """Do something of mine."""
    click.echo("done")


@pytest.fixture
def gem(monkeypatch, capsys):
    """Run `gem` with these commands of plugins and no others."""

    def run(entries, *arguments):
        monkeypatch.setattr("gemcore.discovery.find_entries", lambda: tuple(entries))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_plugin", sys.modules[__name__])


def test_a_name_with_a_dot_is_a_command_of_that_group(gem):
    entries = [entry("eval.mine", "my_plugin:mine")]
    assert gem(entries, "eval", "mine") == (0, "done\n", "")
    code, out, _ = gem(entries, "eval", "--help")
    assert (code, "  perplexity  " in out) == (0, True)
    assert "  mine  from my-plugin 1.0" in out
    _, out, _ = gem(entries, "--help")
    assert "mine" not in out
    code, _, err = gem(entries, "mine")
    assert (code, "unknown command 'mine'" in err) == (2, True)


@pytest.mark.parametrize("group", ["eval", "models", "plugins", "targets"])
def test_every_group_takes_commands_without_importing_them(gem, group):
    entries = [entry(f"{group}.mine", "no_such_module:mine")]
    code, out, _ = gem(entries, group, "--help")
    assert code == 0
    assert "  mine  from my-plugin 1.0" in out
    code, _, err = gem(entries, group, "mine")
    assert code == 1
    assert f"command '{group} mine' of my-plugin 1.0 cannot be used: it cannot be imported" in err
    assert "'no_such_module'" in err


def test_an_unknown_command_of_a_group_lists_those_of_plugins(gem):
    entries = [entry("eval.mine", "my_plugin:mine")]
    code, _, err = gem(entries, "eval", "mines")
    assert code == 2
    assert "unknown command 'mines': did you mean 'mine'? Available: mine, perplexity" in err


def test_own_commands_win_and_two_claims_are_an_error(gem):
    entries = [entry("eval.perplexity", "my_plugin:mine")]
    _, out, _ = gem(entries, "eval", "perplexity", "--help")
    assert "Perplexity and bits per byte" in out
    entries = [entry("eval.mine", "my_plugin:mine", name) for name in ("a", "b")]
    code, _, err = gem(entries, "eval", "mine")
    assert code == 2
    assert "command 'eval mine' is claimed by a 1.0 and by b 1.0" in err


def test_a_dot_after_no_group_of_gem_is_part_of_the_name(gem):
    entries = [entry("other.mine", "my_plugin:mine")]
    assert gem(entries, "other.mine") == (0, "done\n", "")


def test_no_plugins_and_gem_plugins_leave_commands_of_groups_out(gem, monkeypatch):
    entries = [entry("eval.mine", "my_plugin:mine")]
    code, _, err = gem(entries, "--no-plugins", "eval", "mine")
    assert (code, "unknown command 'mine'" in err) == (2, True)
    monkeypatch.setenv("GEM_PLUGINS", "other")
    assert gem(entries, "eval", "mine")[0] == 2


def test_the_suite_is_a_command_of_eval(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    out = capsys.readouterr().out
    assert "  suite    from gemcore" in out
    assert "  compare  from gemcore" in out
