"""What commands show while they work, in a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from gemcore.cli.display import StepDisplay, note, read_text_argument
from gemcore.errors import UsageError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_each_step_is_one_line(capsys):
    with StepDisplay() as display:
        for done in range(3):
            display.step("packing", done, 3)
        display.download(1, 2)
    assert capsys.readouterr().err.splitlines() == ["packing …", "downloading …"]


def test_a_terminal_gets_one_bar_that_is_gone_at_the_end(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with StepDisplay() as display:
        display.step("compiling", 0, 1)
        display.step("packing", 1, 4)
        display.step("packing", 2, 4)
        assert display._bar is not None
        (task,) = display._bar.tasks
        assert (task.description, task.completed, task.total) == ("packing", 2, 4)
    assert "packing" in terminal.getvalue()
    assert display._bar.finished is False
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased


def test_nothing_is_shown_where_nothing_was_done(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with StepDisplay():
        pass
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("words", [None, "-"])
def test_a_prompt_comes_from_stdin(monkeypatch, words):
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert read_text_argument(words) == "from a pipe"
    assert read_text_argument("given") == "given"


def test_a_prompt_that_nobody_gave_is_a_sentence(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(UsageError, match="no prompt was given"):
        read_text_argument(None)
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8", errors="strict")
    )
    with pytest.raises(UsageError, match="not valid UTF-8"):
        read_text_argument(None)


def test_a_note_is_on_stderr(capsys):
    note("quiet")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "quiet" in captured.err
