"""The comparison of quantizers on a tiny model, without llama.cpp."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from quantization_divergence import by_file, importance_file, main, windows_of

import gem_hybrid
from gem_hybrid.gguf_export import write_float_gguf
from gem_hybrid.quantizer import hybrid
from gemcore.formats.gguf import load_gguf
from gemcore.models.layout import weight_units
from gemcore.models.weights import float_unit
from gemcore.testing import tiny_checkpoint, tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a GGUF file, and two texts."""
    made = tmp_path_factory.mktemp("comparison")
    write_float_gguf(made / "tiny.gguf", tiny_checkpoint(tiny_config(context_length=256)))
    generator = random.Random(0)
    for name in ("law", "stem"):
        (made / name).mkdir()
        words = ["".join(generator.choices("abcdefgh,.", k=5)) for _ in range(400)]
        (made / name / "text.txt").write_text(" ".join(words))
    return made


def test_a_run_makes_tables_and_the_next_one_keeps_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEM_CACHE", str(folder / "cache"))
    texts = [str(folder / name / "text.txt") for name in ("law", "stem")]
    words = [*texts, "--work", str(folder / "work"), "--model", str(folder / "tiny.gguf")]
    words += ["--calibration", texts[0], "--tokens", "512", "--bits", "4.5", "--compiled"]
    words += ["--nearest", "q4s-g32", "--single", "q4s-g32"]
    assert main(words) == 0
    first = capsys.readouterr()
    assert first.err.count("measuring ") == 3
    rows = [line.split(" | ") for line in first.out.splitlines()]
    assert rows[0] == ["| model", "bits", "law", "stem", "all", "compiled |"]
    kl = {row[0][2:]: float(row[4].split(" ±")[0]) for row in rows[2:5]}
    assert 0 < kl["hybrid, 4.5 bits"] < kl["nearest, q4s-g32"]
    assert kl["one precision, q4s-g32"] < kl["nearest, q4s-g32"]
    assert "| nearest, q4s-g32 | hybrid, 4.5 bits | " in first.out
    assert main(words) == 0
    second = capsys.readouterr()
    assert (second.out, second.err) == (first.out, "")


def test_files_of_others_are_read_as_they_are(folder: Path) -> None:
    checkpoint = load_gguf(folder / "tiny.gguf")
    found = by_file(checkpoint, folder / "tiny.gguf")
    units = weight_units(checkpoint.config)
    assert found.bytes == 4 * sum(unit.parameters for unit in units)
    for unit in units:
        np.testing.assert_array_equal(found.source(unit.name), float_unit(checkpoint, unit))


def test_the_importance_of_each_input_has_the_name_that_llama_cpp_knows(folder: Path) -> None:
    config = tiny_config(context_length=256, tied_head=False)
    checkpoint = tiny_checkpoint(config)
    defaults = {option.name: option.default for option in gem_hybrid.OPTIONS}
    text = str(folder / "law" / "text.txt")
    maker = hybrid(**(defaults | {"bits": 4.5, "calibration": text, "tokens": 512}))
    path = importance_file(checkpoint, maker, folder / "importance.npz")
    write_float_gguf(folder / "untied.gguf", checkpoint)
    tensors = {t.name: t for t in gguf.GGUFReader(folder / "untied.gguf").tensors}
    with np.load(path, allow_pickle=False) as squares:
        assert set(squares.files) < set(tensors)
        assert "output.weight" in squares.files
        for name in squares.files:
            assert squares[name].shape == (tensors[name].shape[0],)
            assert (squares[name] > 0).all()


def test_windows_are_spread_over_the_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = load_gguf(folder / "tiny.gguf")
    path = folder / "law" / "text.txt"
    windows = windows_of(path, checkpoint, 768)
    assert [len(window) for window in windows] == [256] * 3
    assert len(set(windows)) == 3
    words = [str(path), "--work", str(folder / "other"), "--model", str(folder / "tiny.gguf")]
    assert main([*words, "--tokens", "100096"]) == 1
    assert "tokens, fewer than 100096" in capsys.readouterr().err


def test_words_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--peers", "Q9"], ["--peers", "Q4_0"]):
        with pytest.raises(SystemExit) as stopped:
            main(["text.txt", "--work", "work", *words])
        assert stopped.value.code == 2
    assert "need --peer-python" in capsys.readouterr().err
