"""The examples, each a distribution of its own: installed beside GEM, and tested as their authors would."""

import json
from pathlib import Path

import pytest

from gemcore.scaffold.names import plugin_names
from gemcore.scaffold.write import write_plugin

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NAMES = ("gem-token-hash", "gem-ternary", "gem-calibration", "gem-riscv64")


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Copies, for building leaves files beside the sources."""
    import shutil

    folder = tmp_path_factory.mktemp("examples")
    for name in NAMES:
        shutil.copytree(EXAMPLES / name, folder / name)
    return {name: folder / name for name in NAMES}


@pytest.fixture(scope="module")
def environment(projects, new_environment):
    """Where all of them are installed."""
    environment = new_environment("examples")
    environment.install(*projects.values())
    return environment


def test_these_are_all():
    assert {path.parent.name for path in EXAMPLES.glob("*/setup.cfg")} == set(NAMES)


def test_their_quick_tests_pass(environment, projects):
    done = environment.pytest("-m", "not slow", *(p / "tests" for p in projects.values()))
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_their_tests_pass(environment, projects, name):
    done = environment.pytest(projects[name] / "tests")
    assert " passed" in done.stdout


def test_the_metric_is_on_the_command_line(environment):
    words = ["confidence=[0.9, 0.9, 0.1]", "correct=[true, false, false]"]
    done = environment.gem("eval", "metric", "calibration:resamples=100", *words, "--json")
    assert json.loads(done.stdout)["value"] == pytest.approx(0.3)


@pytest.mark.slow
def test_plugins_of_three_authors_work_in_one_run(environment, tmp_path):
    """The router of one, the quantizer of another, the target of a third: none knows the others."""
    target = write_plugin(
        "target", plugin_names("theirs", "target"), "a third", tmp_path / "theirs"
    )
    environment.install(target)
    environment.run("-m", "gemcore.testing", tmp_path)
    router = f"token-hash:experts={tmp_path / 'experts'}"
    words = ["--model", tmp_path / "model", "--max-tokens", "4", "--json"]
    words += ["--router", router, "--quantizer", "ternary", "--target", "theirs"]
    done = environment.gem("run", *words, "hello", GEM_CACHE=str(tmp_path / "cache"))
    found = json.loads(done.stdout)
    assert (found["router"], found["quantizer"], found["target"]) == (router, "ternary", "theirs")
    assert done.stderr.count("Traceback") == 0
