"""Commands of plugins within GEM's own groups."""

import sys
from importlib.metadata import EntryPoint

import click
import pytest

from gemcore.cli.main import LazyGroup, PluginGroup, main
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
    assert (
        "unknown command 'mines': did you mean 'mine'? Available: metric, mine, perplexity" in err
    )


def test_own_commands_win_and_two_claims_are_an_error(gem):
    entries = [entry("eval.perplexity", "my_plugin:mine")]
    _, out, _ = gem(entries, "eval", "perplexity", "--help")
    assert "Perplexity and bits per byte" in out
    entries = [entry("eval.mine", "my_plugin:mine", name) for name in ("a", "b")]
    code, _, err = gem(entries, "eval", "mine")
    assert code == 2
    assert "command 'eval mine' is claimed by a 1.0 and by b 1.0" in err


@click.group(cls=PluginGroup)
def tools():
    """Tools of mine."""


@tools.command()
def own():
    """Do something of the group's own."""
    click.echo("own")


@click.group(cls=LazyGroup, table={"mine": ("my_plugin:mine", "Do it.")})
def lazy():
    """Tools that are imported late."""


def test_a_name_with_a_dot_is_a_command_of_a_plugins_group(gem):
    entries = [
        entry("tools", "my_plugin:tools"),
        entry("tools.mine", "my_plugin:mine", "other-plugin"),
        entry("tools.late", "no_such_module:mine"),
    ]
    assert gem(entries, "tools", "mine") == (0, "done\n", "")
    assert gem(entries, "tools", "own") == (0, "own\n", "")
    code, out, _ = gem(entries, "tools", "--help")
    assert (code, "  own  Do something of the group's own." in out) == (0, True)
    assert "  mine  from other-plugin 1.0" in out
    _, out, _ = gem(entries, "--help")
    assert "mine" not in out
    assert gem(entries, "mine")[0] == 2
    code, _, err = gem(entries, "tools", "late")
    assert (code, "command 'tools late' of my-plugin 1.0 cannot be used" in err) == (1, True)
    code, _, err = gem(entries, "tools", "mines")
    assert (code, "did you mean 'mine'? Available: late, mine, own" in err) == (2, True)


def test_groups_nest_as_deep_as_their_names(gem):
    entries = [
        entry("eval.tools", "my_plugin:tools"),
        entry("eval.tools.mine", "my_plugin:mine"),
        entry("eval.tools.no.group", "my_plugin:mine"),
    ]
    assert gem(entries, "eval", "tools", "mine") == (0, "done\n", "")
    assert gem(entries, "eval", "tools", "no.group") == (0, "done\n", "")
    assert "tools.mine" not in gem(entries, "eval", "--help")[1]


def test_a_lazy_group_imports_its_own_commands_when_they_are_used(gem):
    entries = [entry("lazy", "my_plugin:lazy"), entry("lazy.mine", "no_such_module:mine")]
    assert gem(entries, "lazy", "mine") == (0, "done\n", "")
    assert "  mine  Do it." in gem(entries, "lazy", "--help")[1]


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
