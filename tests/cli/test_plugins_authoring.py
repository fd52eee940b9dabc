"""`gem plugins new`, `validate`, `install` and `uninstall` on the command line."""

import json

import pytest
from click.testing import CliRunner

from gemcore.cli import pip, plugins_authoring
from gemcore.cli.main import gem as command
from gemcore.cli.plugins_authoring import NEW_KINDS
from gemcore.errors import GemError, UsageError
from gemcore.scaffold.write import KINDS


def call(*words):
    """Run `gem` in this process; its errors are raised."""
    done = CliRunner().invoke(command, words, catch_exceptions=False, standalone_mode=False)
    if done.exception:
        raise done.exception
    return done


def test_the_kinds_are_those_that_have_templates():
    assert list(KINDS) == [*NEW_KINDS]


def test_new_writes_a_folder_here_and_says_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("plugins", "new", "shiny", "--kind", "router", "--author", "me")
    first, *rest = done.output.splitlines()
    assert first == "wrote gem-shiny: the router 'shiny' is in gem_shiny/router.py"
    assert [line.strip().partition("  ")[0] for line in rest] == [
        "gem plugins install -e gem-shiny",
        "python -m pytest gem-shiny",
        "gem plugins validate gem-shiny",
    ]
    assert (tmp_path / "gem-shiny" / "gem_shiny" / "router.py").is_file()
    with pytest.raises(UsageError, match="gem-shiny is there already"):
        call("plugins", "new", "shiny", "--kind", "metric", "--author", "me")


def test_new_takes_the_author_from_git_or_names_nobody(tmp_path, monkeypatch):
    for name, told in (("A. Gitter", "A. Gitter"), ("", "the authors of gem-shiny")):
        monkeypatch.setattr(plugins_authoring, "_git_user", lambda name=name: name)
        folder = tmp_path / (name or "nobody")
        call("plugins", "new", "shiny", "--kind", "metric", "-o", str(folder))
        assert told in (folder / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("Shiny!", "router", "'shiny' would do"),
        ("none", "router", "there is a router 'none' already"),
        ("host", "target", "there is a target 'host' already"),
    ],
)
def test_new_refuses_names(tmp_path, name, kind, said):
    with pytest.raises(UsageError, match=said):
        call("plugins", "new", name, "--kind", kind, "-o", str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_install_tells_what_is_new_and_failures_are_one_sentence(monkeypatch):
    found = [
        {"gem-old": "1.0", "gem-both": "1.0"},
        {"gem-both": "1.1", "gem-new": "0.1", "gem-old": "1.0"},
    ]
    ran = []
    monkeypatch.setattr(pip, "installed_plugins", lambda: found.pop(0))
    monkeypatch.setattr(pip, "run_pip", lambda *words: ran.append(words))
    done = call("plugins", "install", "--upgrade", "gem-new", "gem-both")
    assert ran == [("install", "--upgrade", "gem-new", "gem-both")]
    assert done.output.splitlines() == [
        "installed gem-both 1.1: see gem plugins show gem-both",
        "installed gem-new 0.1: see gem plugins show gem-new",
    ]
    monkeypatch.setattr(pip, "installed_plugins", dict)
    assert "no plugin is new here" in call("plugins", "install", "attrs").output


def test_pip_that_fails_is_told_with_its_exit_code(capfd):
    with pytest.raises(GemError, match="pip install failed with exit code 1"):
        pip.run_pip("install", "--no-index", "gem-no-such-plugin-anywhere")
    out, err = capfd.readouterr()
    assert out == ""
    assert "gem-no-such-plugin-anywhere" in err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gemcore", "'gemcore' is GEM's own and comes with it"),
        ("gem_scar", "'gem_scar' is GEM's own and comes with it"),
        ("gem-nothing", "unknown plugin 'gem-nothing'"),
    ],
)
def test_gem_itself_and_strangers_are_not_uninstalled(name, said):
    with pytest.raises(UsageError, match=said):
        call("plugins", "uninstall", name)


@pytest.mark.slow
def test_from_nothing_to_an_installed_plugin_and_back(tmp_path, new_environment):
    environment = new_environment("whole-way")
    environment.gem("plugins", "new", "mine", "--kind", "metric", "--author", "me", cwd=tmp_path)
    told = environment.install(tmp_path / "gem-mine").stdout
    assert told == "installed gem-mine 0.1.0: see gem plugins show gem-mine\n"
    done = environment.gem("plugins", "validate", "mine", "--json")
    found = json.loads(done.stdout)
    assert (found["plugin"], found["sound"]) == ("gem-mine 0.1.0", True)
    assert environment.gem("plugins", "uninstall", "mine").stdout == "uninstalled gem-mine\n"
    done = environment.gem("plugins", "show", "mine", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("gem: unknown plugin 'mine'")


def test_an_unsound_plugin_is_exit_code_1_with_its_name(tmp_path, new_environment):
    environment = new_environment("unsound")
    folder = tmp_path / "gem-stuck"
    environment.gem("plugins", "new", "stuck", "--kind", "router", "-o", folder, "--author", "me")
    init = folder / "gem_stuck" / "__init__.py"
    init.write_text(
        "import time\ntime.sleep(600)\n" + init.read_text().replace("from __future__", "#")
    )
    done = environment.gem("plugins", "validate", folder, "--timeout", "3", check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "gem-stuck 0.1.0: 1 check failed"
    assert "it does not finish within 3 s" in " ".join(done.stdout.split())
    # Installed all the same, it stops nothing else.
    environment.install(folder)
    assert environment.gem("--help").returncode == 0
    rows = json.loads(environment.gem("plugins", "list", "--json", GEM_PLUGIN_SECONDS="1").stdout)
    stuck = next(row for row in rows if row["distribution"] == "gem-stuck")
    assert stuck["status"] == "failed"
    assert stuck["reason"].startswith("it did not finish loading within 1 s")
    assert any(row["status"] == "active" and row["name"] == "scar" for row in rows)
    done = environment.gem("run", "--router", "stuck", "hi", check=False, GEM_PLUGIN_SECONDS="1")
    assert done.returncode == 1
    assert "plugin 'gem_stuck' of gem-stuck 0.1.0 could not be loaded" in done.stderr
