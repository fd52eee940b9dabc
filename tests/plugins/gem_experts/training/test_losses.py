from __future__ import annotations

import numpy as np
import pytest
import torch

from gem_experts.training.losses import cross_entropy, divergence, head_loss


@pytest.fixture
def numbers():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(11, 8, generator=generator, requires_grad=True)
    head = torch.randn(30, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 30, (11,), generator=generator)
    weights = torch.rand(11, generator=generator)
    return hidden, head, targets, weights


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_cross_entropy_and_its_gradients(numbers, rows):
    hidden, head, targets, weights = numbers
    loss = head_loss(hidden, head, cross_entropy(targets, weights), rows)
    ours = torch.autograd.grad(2 * loss, [hidden, head])
    logits = (hidden @ head.T).detach().numpy()
    chosen = log_softmax(logits)[np.arange(11), targets.numpy()]
    assert float(loss.detach()) == pytest.approx(float(-(chosen * weights.numpy()).sum()), rel=1e-5)
    # The gradients in closed form: softmax minus the target's indicator.
    slope = np.exp(log_softmax(logits))
    slope[np.arange(11), targets.numpy()] -= 1
    slope *= 2 * weights.numpy()[:, None]
    np.testing.assert_allclose(ours[0], slope @ head.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1], slope.T @ hidden.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_divergence_and_its_gradient(numbers):
    hidden, head, targets, _ = numbers
    head = head.detach()
    base = hidden.detach() + 0.3 * torch.randn(11, 8, generator=torch.Generator().manual_seed(2))
    nats: list[float] = []
    loss = head_loss(hidden, head, divergence(base, head, targets, nats), 4)
    (gradient,) = torch.autograd.grad(loss, [hidden])
    logits = (hidden.detach() @ head.T).numpy()
    own, reference = log_softmax(logits), log_softmax((base @ head.T).numpy())
    p = np.exp(reference)
    assert float(loss.detach()) == pytest.approx(float((p * (reference - own)).sum()), rel=1e-4)
    expected = (np.exp(own) - p) @ head.numpy()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    assert sum(nats) == pytest.approx(float(-own[np.arange(11), targets.numpy()].sum()), rel=1e-5)


def test_no_divergence_from_itself(numbers):
    hidden, head, targets, _ = numbers
    loss = head_loss(hidden, head, divergence(hidden.detach(), head.detach(), targets, []))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)


def test_without_gradients(numbers):
    hidden, head, targets, weights = numbers
    with torch.no_grad():
        quiet = head_loss(hidden, head, cross_entropy(targets, weights), 3)
    assert not quiet.requires_grad
    loud = head_loss(hidden, head.detach(), cross_entropy(targets, weights))
    assert float(quiet) == pytest.approx(float(loud.detach()), rel=1e-6)
