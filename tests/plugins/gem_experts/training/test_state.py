from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from gem_experts.training.schedule import learning_rate
from gem_experts.training.state import (
    Standing,
    clear_state,
    load_state,
    save_state,
    settings_digest,
)
from gemcore.errors import FormatError, GemError, UsageError


def training(steps):
    parameters = {"a": torch.nn.Parameter(torch.ones(3, 2)), "b": torch.nn.Parameter(torch.ones(5))}
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=0.1)
    for step in range(steps):
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, step + 1.0)
        optimizer.step()
    return parameters, optimizer


def test_state_comes_back_whole(tmp_path):
    parameters, optimizer = training(3)
    standing = Standing(step=3, passes=6, multipliers={"alpha": 0.5}, history=({"loss": 1.0},))
    save_state(tmp_path / "s", "digest", standing, parameters, optimizer)
    fresh, other = training(0)
    assert load_state(tmp_path / "s", "digest", fresh, other) == standing
    for one, two in ((parameters, optimizer), (fresh, other)):
        for parameter in one.values():
            parameter.grad = torch.full_like(parameter, -2.0)
        two.step()
    for name in parameters:
        assert torch.equal(parameters[name], fresh[name])


def test_nothing_to_go_back_to(tmp_path):
    assert load_state(tmp_path / "s", "digest", *training(0)) is None
    save_state(tmp_path / "s", "digest", Standing(), *training(0))
    assert load_state(tmp_path / "s", "digest", *training(0)) == Standing()
    clear_state(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_another_training_is_refused(tmp_path):
    save_state(tmp_path / "s", "digest", Standing(step=1), *training(1))
    with pytest.raises(UsageError, match="other settings, data or versions"):
        load_state(tmp_path / "s", "other", *training(0))


def test_damaged_states_are_refused(tmp_path):
    folder = tmp_path / "s"
    save_state(folder, "digest", Standing(step=1), *training(1))
    fresh, optimizer = training(0)
    fresh["c"] = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(FormatError, match="give --restart"):
        load_state(folder, "digest", fresh, optimizer)
    fresh["c"] = torch.nn.Parameter(torch.ones(1))
    values = json.loads((folder / "state.json").read_text())
    del values["history"]
    (folder / "state.json").write_text(json.dumps(values))
    with pytest.raises(FormatError, match="'history'"):
        load_state(folder, "digest", *training(0))
    content = (folder / "state.safetensors").read_bytes()
    (folder / "state.safetensors").write_bytes(content[:-3])
    with pytest.raises(GemError, match="state.safetensors"):
        load_state(folder, "digest", *training(0))


def test_digests_tell_settings_apart():
    assert settings_digest({"a": 1, "b": (1, 2)}) == settings_digest({"b": (1, 2), "a": 1})
    assert settings_digest({"a": 1}) != settings_digest({"a": 2})


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 2.0) for step in range(100)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[5] == 2.0
    assert all(one > two for one, two in pairwise(rates[5:]))
    assert rates[-1] == pytest.approx(0.2, rel=0.01)
    assert learning_rate(0, 1, 2.0) == 2.0
