from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gem_experts.training.model import choose_units, in_full, trained
from gem_experts.training.preservation import (
    MOST,
    Multipliers,
    PreservationSettings,
    ascend,
    combine,
    fisher_information,
    full_deltas,
    low_rank_deltas,
    penalty,
)
from gemcore.models.decoder import causal_placement, new_caches

from .test_model import KINDS, lively, texts_of

SETTINGS = PreservationSettings(epsilon=0.02, rate=0.5)


def test_multipliers_rise_when_violated_and_fall_when_slack():
    now = Multipliers(alpha=1.0, penalty=2.0)
    up = ascend(now, 0.04, SETTINGS)
    # Twice what may be: the violation is 1.
    assert up.alpha == pytest.approx(math.exp(0.5))
    assert up.penalty == pytest.approx(2 * math.exp(0.5))
    down = ascend(now, 0.0, SETTINGS)
    assert down.alpha == pytest.approx(math.exp(-0.5))
    assert ascend(now, 0.02, SETTINGS).alpha == pytest.approx(1.0)


def test_one_bad_pass_has_a_limit_and_an_absent_term_stays_absent():
    wild = ascend(Multipliers(alpha=1.0, penalty=0.0), 1e9, SETTINGS)
    assert wild.alpha == pytest.approx(math.exp(1.5))
    assert wild.penalty == 0
    held = ascend(Multipliers(alpha=0.9 * MOST, penalty=1.0), 1e9, SETTINGS)
    assert held.alpha == MOST


def test_the_running_mean_is_of_what_was_measured():
    now = Multipliers(alpha=1.0, penalty=1.0)
    for _ in range(5):
        now = ascend(now, 0.03, SETTINGS)
        assert now.rise == pytest.approx(0.03)
    values = [0.01, 0.05, 0.02]
    now = Multipliers(alpha=1.0, penalty=1.0)
    for value in values:
        now = ascend(now, value, SETTINGS)
    shares = [0.2 * 0.8**n for n in (2, 1, 0)]
    expected = sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)
    assert now.rise == pytest.approx(expected)


@pytest.mark.parametrize("start", [1e-3, 50.0])
def test_dual_ascent_finds_the_constraint(start):
    """Minimise (x - 1)^2 where x^2 may be 0.02: the multiplier is 1 / 0.02**0.5 - 1."""
    x, now = 0.0, Multipliers(alpha=start, penalty=0.0)
    settings = PreservationSettings(epsilon=0.02, rate=0.02)
    for _ in range(4000):
        x -= 0.5 / (1 + now.alpha) * (2 * (x - 1) + now.alpha * 2 * x)
        now = ascend(now, x * x, settings)
    assert x * x == pytest.approx(0.02, rel=0.02)
    assert now.alpha == pytest.approx(0.02**-0.5 - 1, rel=0.02)


def test_fisher_information_is_the_mean_of_squared_gradients(tiny):
    decoder = lively(tiny)
    units = choose_units(tiny.config, (1, 2), KINDS)
    weights = {unit: decoder.get_submodule(unit).base.weight for unit in units}
    texts = texts_of([6, 11, 3])
    calls = []
    found = fisher_information(decoder, weights, texts, lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert not any(weight.requires_grad for weight in weights.values())
    # The same by plain torch on the plain base model, one text at a time.
    plain = in_full(tiny)
    from gemcore.models import float_ops

    for layer in plain.layers:
        layer.append, layer.attend = float_ops.rope_append, float_ops.attention
    parameters = dict(plain.named_parameters())
    expected = {unit: torch.zeros_like(weights[unit]) for unit in units}
    for text in texts:
        count = text.length
        logits = plain(
            torch.from_numpy(text.tokens[:-1]),
            causal_placement(0, count),
            torch.arange(count, dtype=torch.int32),
            new_caches(tiny.config, 16, torch.float32),
        )
        targets = torch.from_numpy(text.tokens[1:]).long()
        nats = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        gradients = torch.autograd.grad(nats, [parameters[f"{unit}.weight"] for unit in units])
        for unit, gradient in zip(units, gradients, strict=True):
            expected[unit] += gradient**2 / count / 3
    for unit in units:
        assert expected[unit].max() > 0
        scale = float(expected[unit].max())
        np.testing.assert_allclose(found[unit], expected[unit], rtol=2e-3, atol=1e-5 * scale)


def test_penalty_and_its_gradient(tiny):
    decoder = lively(tiny)
    units = choose_units(tiny.config, (1, 2), KINDS)
    importances = {
        unit: torch.rand(decoder.get_submodule(unit).base.weight.shape) for unit in units
    }
    value = penalty(importances, low_rank_deltas(decoder, units))
    value.backward()
    total = 0.0
    for unit in units:
        linear = decoder.get_submodule(unit)
        down, up = (factor.detach().numpy()[0] for factor in (linear.down, linear.up))
        delta = (down @ up).T
        slope = 2 * importances[unit].numpy() * delta
        total += float((importances[unit].numpy() * delta**2).sum())
        np.testing.assert_allclose(linear.down.grad[0], (up @ slope).T, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(linear.up.grad[0], (slope @ down).T, rtol=1e-3, atol=1e-5)
    assert float(value.detach()) == pytest.approx(total, rel=1e-4)


def test_deltas_of_a_whole_model(tiny):
    decoder = in_full(tiny)
    parameters = trained(decoder)
    base = {name: value.detach().clone() for name, value in parameters.items()}
    importances = {name: torch.ones_like(value) for name, value in base.items()}
    assert float(penalty(importances, full_deltas(parameters, base)).detach()) == 0
    parameters["norm.gain"].data += 0.5
    value = penalty(importances, full_deltas(parameters, base))
    assert float(value.detach()) == pytest.approx(0.25 * tiny.config.hidden_size)


def test_importances_of_several_sources():
    sources = [{"w": torch.tensor([value])} for value in (4.0, 2.0, 6.0)]
    mean = combine(sources, PreservationSettings(mode="separate"))
    assert mean["w"].item() == pytest.approx(4)
    online = combine(sources, PreservationSettings(mode="online", decay_factor=0.5))
    assert online["w"].item() == pytest.approx(4 * 0.25 + 2 * 0.5 + 6)
    assert sources[0]["w"].item() == 4
