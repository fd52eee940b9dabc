"""`python -m gemcore.testing FOLDER`: a toy model with experts, for whoever tries a plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemcore.experts.expert_set import read_set
from gemcore.formats.huggingface import load_folder
from gemcore.testing.__main__ import main


def test_it_writes_a_model_and_experts_that_belong_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "toy")]) == 0
    assert "the experts code, law, medicine" in capsys.readouterr().out
    experts = read_set(tmp_path / "toy" / "experts")
    experts.check_base(load_folder(tmp_path / "toy" / "model"))


def test_a_second_time_is_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b"]])
def test_without_one_folder_it_says_how_it_is_used(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == "usage: python -m gemcore.testing FOLDER\n"
