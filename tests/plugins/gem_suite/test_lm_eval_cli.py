"""`gem eval lm-eval`: which words lm-eval gets, and what is said where it is not installed."""

import sys
from types import ModuleType

import pytest
from click.testing import CliRunner

from gem_suite.lm_eval_cli import harness_arguments, lm_eval_command
from gem_suite.lm_eval_model import harness_module
from gemcore.errors import GemError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["--help"], ["--help"]),
        (["validate", "--tasks", "a"], ["validate", "--tasks", "a"]),
        (["run", "--help"], ["run", "--model", "gem", "--help"]),
        (["-t", "a"], ["run", "--model", "gem", "-t", "a"]),
        (["--model", "hf", "-t", "a"], ["run", "--model", "gem", "--model", "hf", "-t", "a"]),
        (["run", "--config=a.yaml"], ["run", "--config=a.yaml"]),
        (["-C", "a.yaml"], ["run", "-C", "a.yaml"]),
        (["--confirm_run_unsafe_code"], ["run", "--model", "gem", "--confirm_run_unsafe_code"]),
    ],
)
def test_gem_is_the_model_unless_another_is_named(given, expected):
    assert harness_arguments(given) == expected


@pytest.fixture
def harness(monkeypatch):
    """A stand-in for lm-eval that notes the command line that it sees."""
    seen = []
    module = ModuleType("lm_eval.__main__")
    module.cli_evaluate = lambda: seen.append(list(sys.argv))
    modules = {"lm_eval.__main__": module}
    monkeypatch.setattr("gem_suite.lm_eval_model.harness_module", modules.__getitem__)
    monkeypatch.setattr("gem_suite.lm_eval_model.register_gem", lambda: seen.append("registered"))
    return module, seen


def test_lm_eval_gets_every_word_as_it_is(harness):
    words = ["--tasks", "a", "b", "-h", "--model_args", "model=x,threads=2", "--limit=3"]
    before = sys.argv
    result = CliRunner().invoke(lm_eval_command, words, standalone_mode=False)
    assert result.exception is None
    assert harness[1] == ["registered", ["lm-eval", "run", "--model", "gem", *words]]
    assert sys.argv is before


@pytest.mark.parametrize("error", [ValueError("Tasks not found: x"), FileNotFoundError("x.json")])
def test_what_lm_eval_complains_of_is_one_sentence(harness, error):
    def fail():
        raise error

    harness[0].cli_evaluate = fail
    result = CliRunner().invoke(lm_eval_command, ["--tasks", "x"], standalone_mode=False)
    assert isinstance(result.exception, GemError)
    assert str(result.exception) == f"lm-eval failed: {type(error).__name__}: {error}"


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = CliRunner().invoke(lm_eval_command, ["--tasks", "x"], standalone_mode=False)
    assert isinstance(result.exception, GemError)
    assert "pip install 'gemcore[lm-eval]'" in str(result.exception)


def test_a_module_that_lm_eval_needs_is_not_taken_for_lm_eval(tmp_path, monkeypatch):
    (tmp_path / "broken_harness.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        harness_module("broken_harness")
