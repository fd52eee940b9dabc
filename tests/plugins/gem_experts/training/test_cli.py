from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from gem_experts.training.cli import train
from gem_experts.training.cli_progress import TrainingDisplay
from gem_experts.training.state import Standing
from gemcore.errors import UsageError
from gemcore.experts.files import read_expert


@pytest.fixture
def gem(data, tiny, monkeypatch):
    monkeypatch.setattr("gemcore.models.sources.load_checkpoint", lambda *_: tiny)

    def run(*words):
        arguments = ["--data", str(data), "--model", "tiny", *map(str, words)]
        return CliRunner().invoke(train, arguments)

    return run


SHORT = ("--layers", "1:2", "--rank", 2, "--steps", 2, "--batch-tokens", 64, "--precision", "f32")


def test_an_expert_from_the_command_line(gem, tmp_path):
    target = tmp_path / "expert"
    result = gem("--domain", "law_x", "-o", target, *SHORT)
    assert result.exit_code == 0, result.exception
    assert "free_law: 6 texts" in result.stdout
    assert "left out: paid_law: CC BY-NC 4.0" in result.stdout
    assert "bits per byte of the domain" in result.stdout
    assert "bits per byte of general text" in result.stdout
    assert "step 2/2, loss " in result.stderr
    card = read_expert(target).card
    assert card.rank == 2
    assert card.command == (
        "gem experts train --domain law_x --model tiny --rank 2 --layers 1:2 --steps 2 "
        "--batch-tokens 64 --precision f32 --data DATA -o FOLDER"
    )
    assert str(tmp_path) not in (target / "card.json").read_text()


def test_a_dry_run_trains_nothing(gem, tmp_path):
    result = gem("--domain", "law_x", "-o", tmp_path / "e", "--dry-run", "--licences", "all")
    assert result.exit_code == 0
    assert "paid_law: 2 texts" in result.stdout
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--domain", "laws_x"), "unknown domain 'laws_x'"),
        (("--domain", "law_x", "--exclude", "dogs"), "unknown benchmark 'dogs'"),
        (("--domain", "law_x", "--layers", "0:9"), "does not fit the model"),
        (("--domain", "law_x", "--layers", "1:2", "--units", "attention.q"), "unknown unit"),
        (("--domain", "law_x", "--steps", "1", "--epochs", "1"), "give one of them"),
    ],
)
def test_wrong_usage(gem, tmp_path, words, message):
    result = gem("-o", tmp_path / "e", *words)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    "words", [("--layers", "1-2"), ("--epsilon", "0"), ("--learning-rate", "0"), ("--rank", "0")]
)
def test_values_that_cannot_be(gem, tmp_path, words):
    result = gem("--domain", "law_x", "-o", tmp_path / "e", *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_an_existing_folder(gem, tmp_path):
    result = gem("--domain", "law_x", "-o", tmp_path)
    assert "exists already" in str(result.exception)


def test_lines_of_progress():
    class Quiet:
        def step(self, *_):
            pass

    display = TrainingDisplay(Quiet(), 1024)
    record = {"loss": 2.5, "mean_rise": 0.004, "alpha": 0.3, "lambda": 0.2}
    display._start = 100.0, 1
    line = display.line(Standing(step=11, history=(record,)), 31, 110.0)
    assert line == (
        "step 11/31, loss 2.5000, general +0.40 % (alpha 0.3, lambda 0.2), 1024 tokens/s, 20 s left"
    )


def test_the_help_needs_no_torch():
    code = (
        "import sys; from gem_experts.training.cli import train; "
        "train(['--help'], standalone_mode=False); "
        "assert not {'torch', 'tvm', 'numpy', 'tokenizers'} & sys.modules.keys(), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
