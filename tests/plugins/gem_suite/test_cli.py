"""`gem eval suite`, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gem_suite.cli_progress import RunDisplay
from gemcore.cli.main import main


@pytest.fixture
def data(write_folder, items, tmp_path):
    """Two tasks of a domain called tests."""
    for kind in ("multiple_choice", "generation_qa"):
        rows = [{**items[kind], "question": f"{items[kind]['question']} {n}"} for n in range(6)]
        write_folder(kind, rows, task_type=kind)
    return tmp_path


@pytest.fixture
def gem(tiny_bundle, data, tmp_path, capfd):
    """Run `gem eval suite` in this process: exit code, stdout, stderr."""

    def run(*arguments, bundle=True):
        given = ["--bundle", tiny_bundle.folder] if bundle else []
        given = ["eval", "suite", *given, "--data", data, *arguments]
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, given)))
        return ended.value.code, *capfd.readouterr()

    return run


def test_a_run_writes_a_file_and_prints_a_table(gem, tmp_path):
    code, out, err = gem("--limit", 4, "-o", tmp_path / "a.json")
    assert code == 0, err
    assert "multiple_choice  tests" in out
    assert err.splitlines() == ["[1/2] generation_qa: 4 items", "[2/2] multiple_choice: 4 items"]
    results = json.loads((tmp_path / "a.json").read_text())
    assert results["n-samples"]["multiple_choice"] == {"original": 6, "effective": 4}


def test_bad_data_fails_with_file_and_line_after_the_others(gem, data, tmp_path):
    path = data / "tests" / "generation_qa" / "test.jsonl"
    path.write_text(path.read_text() + "{}\n")
    code, out, err = gem("-o", tmp_path / "a.json")
    assert code == 1
    assert "multiple_choice  tests" in out
    assert f"{path}, line 7" in err
    assert "gem: 1 task failed, the others are in" in err
    assert list(json.loads((tmp_path / "a.json").read_text())["errors"]) == ["generation_qa"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--hub"], "--hub and --data name two places"),
        (["--domains", "tsts"], "unknown domain 'tsts': did you mean 'tests'?"),
        (["--tasks", "nothing"], "unknown task 'nothing': Available:"),
        (["--engine", "float32"], "--engine float32 needs the model itself"),
        (["--limit", "0"], "'--limit'"),
        (["--quantizer", "f16"], "--bundle is compiled already"),
    ],
)
def test_wrong_usage_is_one_sentence(gem, tmp_path, arguments, sentence):
    code, _, err = gem(*arguments, "-o", tmp_path / "a.json")
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "a.json").exists()


def test_no_data_folder_is_one_sentence(tiny_bundle, monkeypatch, capfd, tmp_path):
    monkeypatch.delenv("GEM_DATA", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["eval", "suite", "--bundle", str(tiny_bundle.folder), "-o", str(tmp_path / "a")])
    assert ended.value.code == 2
    assert "name its folder with --data DIR or GEM_DATA" in capfd.readouterr().err


def test_float32_and_workers_and_further_benchmarks(gem, tiny_folder, tmp_path):
    extra = tmp_path / "mine.toml"
    extra.write_text(
        '[[benchmark]]\nname = "multiple_choice"\ndomain = "mine"\n'
        'task_type = "multiple_choice"\nmetric = "acc"\n'
    )
    common = ["-m", tiny_folder, "--engine", "float32", "--benchmarks", extra, "--limit", 3]
    code, _, err = gem(*common, "--threads", 1, "-o", tmp_path / "a.json", bundle=False)
    assert code == 0, err
    code, _, err = gem(*common, "--workers", 2, "-o", tmp_path / "b.json", bundle=False)
    assert code == 0, err
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert one["configs"]["multiple_choice"]["main_metric"] == "acc"
    assert one["samples"] == two["samples"]
    assert one["config"] == two["config"]


def test_a_killed_run_goes_on_where_it_was(tiny_bundle, data, tmp_path, gem):
    """Killed for good, by a signal that no program sees."""
    output = tmp_path / "a.json"
    code, _, err = gem("-o", tmp_path / "whole.json")
    assert code == 0, err
    program = (
        "import sys, time\nfrom gem_suite import runner_tasks, runner_worker\n"
        "from gemcore.cli.main import main\nrunner_tasks.PIECE_ITEMS = 1\n"
        "run = runner_worker.Worker.run\n"
        "def slowly(self, piece):\n    time.sleep(0.05)\n    return run(self, piece)\n"
        "runner_worker.Worker.run = slowly\nmain(sys.argv[1:])\n"
    )
    arguments = ["eval", "suite", "--bundle", tiny_bundle.folder, "--data", data, "-o", output]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
    journal = tmp_path / "a.json.journal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > 4:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = journal.read_bytes().count(b"\n") - 1
    assert done > 2
    assert not output.exists()
    code, _, err = gem("-o", output)
    assert code == 0, err
    assert "going on where an earlier run ended" in err
    whole, again = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("whole", "a"))
    for result in (whole, again):
        del result["date"], result["total_evaluation_time_seconds"]
    assert json.dumps(again) == json.dumps(whole)
    assert not journal.exists()


def test_in_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with RunDisplay() as display:
        display.begin(100, 20, 2)
        display.advance("first", 40)
        display.finish("first", 5)
        display.fail("second", "its data is missing")
    err = capsys.readouterr().err
    assert "going on where an earlier run ended, 20% done" in err
    assert "second failed: its data is missing" in err
