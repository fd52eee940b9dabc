"""New plugins as they are written: installed in a fresh environment, tested there, and used."""

import json

import pytest

from gemcore.scaffold.names import plugin_names
from gemcore.scaffold.write import KINDS, write_plugin
from gemcore.testing.model_folder import write_tiny_model


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """A new plugin of each kind."""
    folder = tmp_path_factory.mktemp("new")
    return {
        kind: write_plugin(kind, plugin_names(f"my-{kind}", kind), "me", folder / f"gem-my-{kind}")
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def environment(projects, new_environment):
    """Where all of them are installed."""
    environment = new_environment("generated")
    told = environment.install(*projects.values()).stdout
    for kind in KINDS:
        assert f"installed gem-my-{kind} 0.1.0: see gem plugins show gem-my-{kind}" in told
    return environment


def test_all_are_listed_as_active(environment):
    rows = json.loads(environment.gem("plugins", "list", "--json").stdout)
    mine = {row["name"]: row for row in rows if row["distribution"].startswith("gem-my-")}
    assert mine.keys() == {f"my-{kind}" for kind in KINDS}
    assert {(row["status"], row["reason"]) for row in mine.values()} == {("active", "")}


def test_their_quick_tests_pass(environment, projects):
    done = environment.pytest("-m", "not slow", *(p / "tests" for p in projects.values()))
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_their_tests_pass(environment, projects, kind):
    done = environment.pytest(projects[kind] / "tests")
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["quantizer", "target"])
def test_gem_run_uses_them(environment, kind, tmp_path):
    model = write_tiny_model(tmp_path / "tiny")
    words = ["--model", model, "--max-tokens", "3", "--json", f"--{kind}", f"my-{kind}", "hello"]
    done = environment.gem("run", *words, GEM_CACHE=str(tmp_path / "cache"))
    assert json.loads(done.stdout)[kind].startswith(f"my-{kind}")


@pytest.mark.slow
def test_gem_run_uses_the_router(environment, tmp_path):
    environment.run("-m", "gemcore.testing", tmp_path)
    router = f"my-router:experts={tmp_path / 'experts'},confidence=0.2"
    words = ["--model", tmp_path / "model", "--max-tokens", "3", "--json", "--router", router]
    done = environment.gem("run", *words, "hello", GEM_CACHE=str(tmp_path / "cache"))
    assert json.loads(done.stdout)["router"] == router


def test_gem_eval_uses_the_metric(environment):
    done = environment.gem("eval", "metric", "my-metric", "correct=[true, false]", "--json")
    found = json.loads(done.stdout)
    assert found["value"] == 0.5
    assert found["low"] < 0.5 < found["high"]


def test_gem_eval_suite_asks_the_benchmark(environment, tmp_path):
    environment.run("-m", "gem_my_benchmark.benchmark", tmp_path / "data")
    model = write_tiny_model(tmp_path / "tiny")
    words = ["--data", tmp_path / "data", "--tasks", "my-benchmark", "--limit", "4"]
    words += ["--engine", "float32"]  # which compiles nothing
    words += ["--model", model, "-o", tmp_path / "results.json"]
    environment.gem("eval", "suite", *words, GEM_CACHE=str(tmp_path / "cache"))
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["samples"]["my-benchmark"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_fit_to_publish(environment, projects, kind):
    done = environment.gem("plugins", "validate", projects[kind], "--json", "--quick")
    found = json.loads(done.stdout)
    assert found["sound"]
    assert found["plugin"] == f"gem-my-{kind} 0.1.0"
    assert {f["status"] for f in found["findings"]} <= {"ok", "skipped"}
