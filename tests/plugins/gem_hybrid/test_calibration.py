"""Calibration text: what there is, and how it is cut."""

import pytest

from gem_hybrid.calibration import calibrate_on, calibration_text, read_calibration
from gemcore.errors import UsageError
from gemcore.text.tokenizer import Tokenizer


def test_the_text_that_comes_along_is_long_enough(tiny):
    text = calibration_text()
    assert len(text) > 25_000
    found = calibrate_on(tiny, [text], 4096)
    assert 3000 < found.tokens <= 4096
    assert len(found.held_out) >= 2


def test_windows_are_pieces_of_the_text(tiny, text_file):
    texts = read_calibration(str(text_file))
    ids = Tokenizer.from_text_data(tiny.text).encode_prompt(texts[0])
    found = calibrate_on(tiny, texts, 10**6)
    windows = {tuple(ids[i : i + 256]) for i in range(0, len(ids), 256)}
    assert {*found.windows, *found.held_out} <= windows
    assert not {*found.windows} & {*found.held_out}
    assert len(found.windows) + len(found.held_out) == len(ids) // 256


def test_the_digest_is_that_of_the_tokens(tiny):
    one = calibrate_on(tiny, ["abc " * 300], 1024)
    assert one == calibrate_on(tiny, ["abc " * 300], 1024)
    assert one.digest != calibrate_on(tiny, ["abd " * 300], 1024).digest


def test_many_tokens_are_spread_over_the_text(tiny):
    text = "a" * 5000 + "b" * 5000
    found = calibrate_on(tiny, [text], 1024)
    assert found.tokens <= 1024
    assert found.windows[0] != found.windows[-1]


def test_too_little_text_is_refused(tiny, tmp_path):
    with pytest.raises(UsageError, match="the file is empty: calibration needs"):
        calibrate_on(tiny, ["", " \n"], 1024, "the file")
    with pytest.raises(UsageError, match="has 12 tokens, and calibration needs at least 512"):
        calibrate_on(tiny, ["zzzzzzzzzzzz"], 1024)
    with pytest.raises(UsageError, match="no such file"):
        read_calibration(str(tmp_path / "none.txt"))
