"""The command, and a whole comparison of the tiny model."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gemcore.models.eager import EagerModel
from gemcore.perplexity import measure
from gemcore.text.tokenizer import Tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"
TEXTS = ["the quick brown fox jumps over the lazy dog", "no two texts are alike " * 9]


def peers(*arguments, **options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--systems", "gem,lama"], "unknown system 'lama'"),
        (["--systems", ","], "names no system"),
        (["--threads", "1,1"], "'1,1' is not a list of different numbers"),
        (["--threads", "0"], "0 is too small: at least 1 is needed"),
        (["--prompt-tokens", "many"], "'many' is not a whole number"),
        (["--new-tokens", "1"], "1 is too small: at least 2 is needed"),
        (["--data", "no-such-folder"], "give --data the folder of the benchmark data"),
    ],
)
def test_wrong_usage_is_explained(arguments, reason, tmp_path):
    done = peers("--work", tmp_path, *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_gem_does_not_know_is_one_sentence(tmp_path):
    done = peers(
        "--work", tmp_path, "--gem-python", sys.executable, "--model", "./none.gguf",
        "--perplexity-texts", 0,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot prepare the model ./none.gguf: no such file: ./none.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    done = peers("--work", tmp_path / "file" / "work", "--perplexity-texts", 0)
    assert done.returncode == 1
    assert re.search("Error: cannot make the folder .*/file/work: Not a directory", done.stderr)


def test_a_comparison_without_any_system_says_so(tiny_folder, tmp_path):
    done = peers(
        "--model", tiny_folder, "--systems", "llama.cpp-q4_0", "--perplexity-texts", 0,
        "--prompt-tokens", 4, "--new-tokens", 3, "--rounds", 1, "--work", tmp_path / "work",
        "-o", tmp_path / "result.json", "--gem-python", sys.executable,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no system could be measured; the table says why" in done.stderr
    # Either it is not installed, or it says that this model is no GGUF file.
    reason = json.loads((tmp_path / "result.json").read_text())["systems"]["llama.cpp-q4_0"]
    assert f"left out: {reason['left_out']}" in done.stdout


def test_prompts_that_do_not_fit_the_context_are_refused(tiny_folder, tmp_path):
    done = peers(
        "--model", tiny_folder, "--prompt-tokens", "8,250", "--new-tokens", 7, "--work", tmp_path,
        "--perplexity-texts", 0, "--gem-python", sys.executable,
    )  # fmt: skip
    assert done.returncode == 2
    assert "250 + 7 tokens do not fit the model's context of 256" in done.stderr


@pytest.mark.slow
def test_the_tiny_model_is_compared(tiny, tiny_folder, tmp_path):
    data = tmp_path / "data" / "domain_adaptive" / "wikitext2"
    data.mkdir(parents=True)
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (data / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = peers(
        "--model", tiny_folder, "--systems", "torch-eager-f32,llama.cpp-q4_0", "--threads", 1,
        "--prompt-tokens", "4,9", "--new-tokens", 3, "--rounds", 2, "--data", tmp_path / "data",
        "--work", tmp_path / "work", "-o", tmp_path / "result.json",
        "--gem-python", sys.executable,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "torch eager, float32" in done.stdout
    report = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert [(row["prompt_tokens"], row["system"]) for row in report["results"]] == [
        (4, "torch-eager-f32"),
        (9, "torch-eager-f32"),
    ]
    assert len(report["results"][0]["prefill_tokens_per_s"]["rounds"]) == 2
    # Either it is not installed, or it says that this model is no GGUF file.
    assert report["systems"]["llama.cpp-q4_0"]["left_out"]
    assert "left out: " in done.stdout
    ours = report["systems"]["torch-eager-f32"]
    assert ours["left_out"] is None
    assert ours["peak_memory_mb"] > 10
    expected = measure(
        TEXTS, Tokenizer.from_text_data(tiny.text), EagerModel(tiny).logits, window=256, stride=128
    )
    assert report["plan"]["perplexity_tokens"] == expected.tokens
    assert math.isclose(ours["perplexity"], expected.perplexity, rel_tol=1e-4)
    assert not list(tmp_path.rglob("*.tmp"))
