"""`gem study compression`: from files that are there, and with a tiny model through the suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gem_study.cli import study
from gem_suite import runner_worker
from gemcore.errors import GemError, UsageError


class Interrupted(BaseException):
    """Like Ctrl-C, a kill, or a power failure."""


def run(*arguments):
    """Run `gem study` in this process; its output, both streams."""
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(study, ["compression", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_from_files(files, tmp_path):
    out = tmp_path / "out" / "study"
    result = run("--from", *files, "-o", out, "--bytes", "270,145,93,89", "--resamples", 100)
    assert "compression of tiny against f16" in result.stdout
    assert "Held-out text (bits per byte" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == ["study.html", "study.json"]
    found = json.loads((out / "study.json").read_text())
    assert found["reference"] == "f16"
    assert [one["size"]["bytes"] for one in found["precisions"]] == [270, 145, 93, 89]
    assert found["variants"]["text"]["correlations"]["brittleness"]["value"] == 1
    assert (out / "study.html").read_text().startswith("<!DOCTYPE html>")


def test_choices(files, tmp_path):
    result = run(
        *("--from", *files[:2], "-o", tmp_path, "--variant", "text", "--resamples", 100),
        *("--domains", "law,stem", "--leave-out", "exam_law"),
    )
    assert "Tasks (" not in result.stdout
    assert "healthcare" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.json"], "'a.json' is one word too many: write --from"),
        (["--from", "a.json"], "--from needs at least 2 result files"),
        (["--bytes", "5"], "--bytes is for --from"),
        (["--from", "a.json", "b.json", "--bytes", "x,2"], "--bytes 'x' is no number"),
        (["--from", "a.json", "b.json"], "no such file: a.json"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments, sentence, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        run(*arguments, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def data(tmp_path, tiny_items):
    """Two domains with a task each, and held-out text of one."""
    for domain, kind in (("law", "multiple_choice"), ("stem", "classification")):
        folder = tmp_path / "data" / domain / kind
        folder.mkdir(parents=True)
        rows = [tiny_items[kind] | {"id": str(n)} for n in range(6)]
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "SOURCE.json").write_text(json.dumps({"task_type": kind, "license": "MIT"}))
        (tmp_path / "data" / domain / "corpus.heldout.txt").write_text(
            f"Text of {domain}.\n\nMore.\n"
        )
    return tmp_path / "data"


@pytest.fixture
def tiny_items():
    return {
        "multiple_choice": {
            "task_type": "multiple_choice",
            "question": "What is cold?",
            "choices": ["ice", "fire", "hot tea"],
            "answer": 0,
        },
        "classification": {
            "task_type": "classification",
            "text": "Lovely.",
            "label_names": ["bad", "good"],
            "answer": 1,
        },
    }


@pytest.fixture
def pieces(monkeypatch):
    """Counts what is worked at, and may interrupt it."""
    counted = {"done": 0, "stop after": None}
    work = runner_worker.Worker.run

    def counting(self, piece):
        if counted["done"] == counted["stop after"]:
            raise Interrupted
        counted["done"] += 1
        return work(self, piece)

    monkeypatch.setattr(runner_worker.Worker, "run", counting)
    return counted


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all tests here, so that each precision is compiled once."""
    return str(tmp_path_factory.mktemp("cache"))


def test_a_model_goes_through_the_suite(data, tiny_folder, tmp_path, monkeypatch, pieces, cache):
    """Interrupted, taken up again, asked again; and a precision with options."""
    monkeypatch.setenv("GEM_CACHE", cache)
    out = tmp_path / "out"
    arguments = [
        *("-m", tiny_folder, "--data", data, "--limit", 4, "--threads", 1, "-o", out),
        *("--quantizers", "f16,q4a-g32:head=f16", "--resamples", 100),
    ]
    pieces["stop after"] = 6
    with pytest.raises(Interrupted):
        run(*arguments)
    assert (out / "f16.json").exists()
    assert not (out / "q4a-g32-head=f16.json").exists()
    pieces["stop after"] = None
    result = run(*arguments)
    assert "precision 1 of 2, f16: measured already" in result.stderr
    assert pieces["done"] == 2 * 4
    assert {path.name for path in out.iterdir()} == {
        *("f16.json", "q4a-g32-head=f16.json", "study.json", "study.html"),
    }
    found = json.loads((out / "study.json").read_text())
    bits = [one["size"]["bits_per_weight"] for one in found["precisions"]]
    assert bits[0] >= 16 > bits[1] > 4
    assert [one["label"] for one in found["precisions"]] == ["f16", "q4a-g32:head=f16"]
    assert found["variants"]["text"]["domains"] == ["law", "stem"]
    # All is there: nothing is done again. With other settings, all is.
    run(*arguments)
    assert pieces["done"] == 2 * 4
    assert json.loads((out / "study.json").read_text()) == found
    run(*arguments[:4], "--limit", 3, *arguments[6:])
    assert pieces["done"] == 4 * 4


def test_a_task_that_fails_is_left_out_and_said(data, tiny_folder, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("GEM_CACHE", cache)
    (data / "law" / "multiple_choice" / "test.jsonl").write_text("{}\n{}\n")
    with pytest.raises(GemError, match=r"2 tasks failed and the study leaves them out: f16, multi"):
        run(
            *("-m", tiny_folder, "--data", data, "-o", tmp_path / "out", "--resamples", 100),
            *("--quantizers", "f16,q4a-g32:head=f16"),
        )
    found = json.loads((tmp_path / "out" / "study.json").read_text())
    assert found["variants"]["task"]["domains"] == ["stem"]


@pytest.mark.parametrize(
    ("quantizers", "sentence"),
    [
        ("f16", "name at least 2"),
        ("f16,q5", "unknown quantizer 'q5'"),
        ("q4a-g32,q4a-g32:head=q8-g32", "are the same"),
        ("f16,q8-g32:heads=f16", "heads"),
    ],
)
def test_wrong_precisions_are_named_before_any_work(quantizers, sentence, data, tmp_path, pieces):
    with pytest.raises(UsageError, match=sentence):
        run("--data", data, "-o", tmp_path / "out", "--quantizers", quantizers)
    assert pieces["done"] == 0
    assert not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from gem_study.cli import study; import gem_study;"
        "list(gem_study.gem_metrics());"
        "study(['compression', '--help'], standalone_mode=False);"
        "print(sorted({'torch', 'tvm', 'numpy', 'rich', 'jinja2', 'ray'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "--quantizers" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
