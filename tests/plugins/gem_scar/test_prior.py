"""Priors by kinds of text, against NumPy."""

import numpy as np
import pytest
import torch

from gem_scar.prior import SLOPE, SourceClassifier, certainty, pooled
from gem_scar.train import NEVER, train_prior


def softmax(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


OWNERS = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)


def test_shares_are_those_of_the_sources_times_the_certainty_gate():
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(4, 6)), generator.normal(size=4)
    features = generator.normal(size=6)
    values = [torch.from_numpy(np.float32(value)) for value in (weight, bias, OWNERS)]
    logits = weight @ features + bias
    shares = softmax(logits)
    odds = np.log((shares**2).sum() / (1 - (shares**2).sum()))
    thresholds = odds + generator.normal(size=4) / 8
    found = SourceClassifier(*values, torch.from_numpy(np.float32(thresholds)), temperature=1.5)
    gate = 1 / (1 + np.exp(-SLOPE * (odds - shares @ thresholds)))
    result = found(torch.from_numpy(np.float32(features)))
    np.testing.assert_allclose(result, softmax(logits / 1.5) @ OWNERS * gate, rtol=1e-4)


def test_what_is_like_many_sources_is_less_certain_than_what_is_like_one():
    level = certainty(torch.full((1, 4), 0.25))
    one = certainty(torch.tensor([[0.97, 0.01, 0.01, 0.01]]))
    sure = certainty(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert float(level) == pytest.approx(np.log(0.25 / 0.75), rel=1e-5)
    assert level < one < sure
    assert torch.isfinite(sure).all()


def test_pooling_is_mean_and_deviation_of_normed_states():
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    normed = states.numpy() / np.sqrt((states.numpy() ** 2).mean(-1, keepdims=True) + 1e-5)
    expected = np.concatenate([normed.mean(0), normed.std(0)])
    np.testing.assert_allclose(pooled(states), expected, rtol=1e-5, atol=1e-6)


def test_a_source_without_texts_is_never_likely():
    generator = torch.Generator().manual_seed(0)
    sources = torch.tensor([0, 2] * 20)
    points = torch.randn(40, 3, generator=generator) + sources[:, None]
    weight, bias = train_prior(points, sources, 3, 1e-2)
    assert bias[1] == NEVER
    logits = points @ weight.T + bias
    assert (logits.argmax(-1) == sources).float().mean() > 0.8
    assert logits.softmax(-1)[:, 1].max() == 0
