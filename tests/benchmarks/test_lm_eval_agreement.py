"""The comparison with lm-evaluation-harness counts what differs, and finds nothing where nothing does."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import lm_eval_agreement
import pytest
from lm_eval_agreement import Item, compare, harness_task, line, main

HARNESS = "lm-eval is not installed: pip install 'gemcore[lm-eval]'"


def item(likelihoods, lengths=(1, 2), context="Q"):
    pairs = tuple((context, " " + "x" * length) for length in lengths)
    return Item(pairs=pairs, likelihoods=tuple(likelihoods), lengths=lengths)


def test_choices_are_by_likelihood_and_by_likelihood_per_character():
    assert item([-3.0, -4.0]).choices == (0, 1)
    assert item([-3.0, -7.0]).choices == (0, 0)


def test_prompts_choices_and_differences_are_compared():
    theirs = [item([-3.0, -4.0]), item([-3.0, -7.0]), item([-9.0, -4.0])]
    ours = [item([-3.0, -4.25]), item([-3.0, -5.0], context="q"), item([-3.0, -4.0])]
    row = compare(theirs, ours)
    assert row == {
        "items": 3,
        "prompts": pytest.approx(2 / 3),
        "acc": pytest.approx(2 / 3),
        "acc_norm": pytest.approx(2 / 3),
        "difference": 6.0,
    }


def test_other_items_are_no_comparison():
    with pytest.raises(ValueError, match="zip"):
        compare([item([-1.0, -2.0])], [])


def test_the_exit_code_says_whether_they_agree(monkeypatch, tmp_path, capsys):
    row = {"items": 100, "prompts": 1.0, "acc": 1.0, "acc_norm": 0.98, "difference": 1e-5}
    row |= {"accuracy_harness": 0.5, "accuracy_gem": 0.5}
    monkeypatch.setattr(lm_eval_agreement, "compare_benchmarks", lambda *_: [("piqa", row)])
    output = tmp_path / "rows.json"
    assert main(["--data", str(tmp_path), "-o", str(output)]) == 0
    assert json.loads(output.read_text()) == {"piqa": row}
    assert "piqa" in capsys.readouterr().out
    row["acc"] = 0.97
    assert main(["--data", str(tmp_path)]) == 1
    assert "97.0%" in line("piqa", row)


def test_a_task_reads_its_file_with_the_prompt_of_the_harness(tmp_path):
    task = harness_task("openbookqa", tmp_path / "test.jsonl", tmp_path)
    assert task["doc_to_text"] == "{{question}}"
    assert task["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "test.jsonl")}
    assert harness_task("piqa", tmp_path, tmp_path)["doc_to_text"] == lm_eval_agreement.QUESTION


@pytest.mark.slow
def test_a_random_model_makes_the_same_choices_in_both(tiny_folder, tmp_path, capsys):
    default = Path(__file__).resolve().parents[2].parent / "shared" / "benchmarks"
    data = Path(os.environ.get("GEM_DATA") or default)
    if not data.is_dir():
        pytest.skip("no benchmark data: set GEM_DATA to its folder")
    output = tmp_path / "rows.json"
    with warnings.catch_warnings():
        # What lm-eval and its dependencies warn of is not GEM's.
        warnings.simplefilter("ignore")
        pytest.importorskip("lm_eval", reason=HARNESS)
        words = ["--data", data, "--model", tiny_folder, "--limit", 8, "--threads", 1]
        words += ["--tasks", "openbookqa,winogrande,hellaswag", "--work", tmp_path, "-o", output]
        assert main(list(map(str, words))) == 0
    capsys.readouterr()
    rows = json.loads(output.read_text())
    assert sorted(rows) == ["hellaswag", "openbookqa", "winogrande"]
    for row in rows.values():
        assert row["items"] == 8
        assert row["prompts"] == row["acc"] == row["acc_norm"] == 1.0
        assert row["difference"] < 1e-2
        assert row["accuracy_harness"] == row["accuracy_gem"]
