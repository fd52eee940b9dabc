"""Changes to what belongs to others are seen; what is merely added to a module is not one."""

import os
import sys

import torch

import gemcore.options
from gemcore.validation.changes import changed_since, take_snapshot


def test_nothing_changes_by_itself():
    before = take_snapshot()
    assert changed_since(before) == []


def test_a_function_a_method_and_a_new_member_are_seen(monkeypatch):
    before = take_snapshot()
    monkeypatch.setattr(torch, "softmax", None)
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: x)
    monkeypatch.setattr(torch.Tensor, "shiny", lambda self: 1, raising=False)
    monkeypatch.setattr(gemcore.options, "parse_words", print)
    changed = changed_since(before)
    for name in ("torch.softmax", "torch.nn.Linear.forward", "torch.Tensor.shiny"):
        assert name in changed
    assert "gemcore.options.parse_words" in changed


def test_hooks_and_environment_are_seen(monkeypatch):
    before = take_snapshot()
    monkeypatch.setattr(sys, "excepthook", print)
    monkeypatch.setitem(os.environ, "GEM_TEST_OF_CHANGES", "1")
    assert changed_since(before) == ["os.environ", "sys.excepthook"]


def test_what_is_added_to_a_module_is_no_harm(monkeypatch):
    before = take_snapshot()
    monkeypatch.setattr(torch, "something_of_mine", print, raising=False)
    assert changed_since(before) == []
