"""The experts that come with GEM."""

from __future__ import annotations

import pytest

import gem_experts
from gem_experts.shipped import smollm2_135m
from gemcore.errors import UsageError
from gemcore.experts.expert_set import read_set
from gemcore.plugins import PluginHost

MOST_BYTES = 25_000_000


def test_the_record():
    host = PluginHost()
    host.add(gem_experts, name="gem_experts")
    (record,) = host.expert_sets()
    assert (record.name, record.base_name) == ("smollm2-135m", "smollm2-135m")


def test_a_copy_of_gem_without_them(monkeypatch, tmp_path):
    monkeypatch.setattr("gem_experts.shipped.__file__", str(tmp_path / "shipped.py"))
    with pytest.raises(UsageError, match="came without its experts"):
        smollm2_135m()


def test_they_are_sound_and_small():
    try:
        folder = smollm2_135m()
    except UsageError as error:
        pytest.skip(str(error))
    experts = read_set(folder)
    assert experts.base_name == "smollm2-135m"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= MOST_BYTES
    for expert in experts.experts:
        assert expert.card.data, expert.card.name
        assert expert.card.command, expert.card.name
        assert expert.card.main_score, expert.card.name
