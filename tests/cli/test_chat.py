"""`gem chat` as somebody types at it, with a session that answers by rote."""

from __future__ import annotations

import io
import sys

import pytest

from gemcore.cli import chat
from gemcore.errors import UsageError


class Interrupted:
    """A stream of which the user stops the answer after the first piece."""

    result = None

    def __iter__(self):
        yield "half"
        raise KeyboardInterrupt


class Rote:
    def __init__(self):
        self.asked = []

    def stream(self, messages, **settings):
        self.asked.append([message["content"] for message in messages])
        return Interrupted()


@pytest.fixture
def session(monkeypatch):
    found = Rote()
    monkeypatch.setattr(chat, "open_for_command", lambda *_, **__: found)
    return found


def talk(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    chat.chat.main([], standalone_mode=False)


def test_what_was_said_is_remembered_until_new(monkeypatch, session, capsys):
    talk(monkeypatch, "one\n\ntwo\n/new\nthree\n/exit\nfour\n")
    assert session.asked == [["one"], ["one", "half", "two"], ["three"]]
    assert capsys.readouterr().out == "half …\n" * 3


def test_the_end_of_the_input_ends_it(monkeypatch, session):
    talk(monkeypatch, "one")
    assert session.asked == [["one"]]


def test_input_that_is_no_text_is_a_sentence(monkeypatch, session):
    broken = io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdin", broken)
    with pytest.raises(UsageError, match="stdin is not valid UTF-8"):
        chat._next_line()


def test_a_terminal_is_told_the_commands(monkeypatch, session, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("builtins.input", lambda prompt: "/exit")
    monkeypatch.setattr(sys, "stdin", Terminal())
    chat.chat.main([], standalone_mode=False)
    assert "/exit (or Ctrl-D) leaves" in capsys.readouterr().err
