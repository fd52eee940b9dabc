from __future__ import annotations

import numpy as np
import pytest
import torch

from gem_experts.training.model import (
    choose_units,
    in_full,
    read_pass,
    trained,
    with_expert,
)
from gem_experts.training.sequences import TokenText, make_pass
from gemcore.errors import UsageError
from gemcore.models import float_ops
from gemcore.models.decoder import new_caches
from gemcore.models.eager import EagerModel

KINDS = ("attention.qkv", "feed_forward.down")


def texts_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [
        TokenText(
            tokens=generator.integers(3, 250, n + 1).astype(np.int32),
            weights=np.ones(n, np.float32),
            bytes=n,
        )
        for n in lengths
    ]


def lively(checkpoint, layers=(1, 2), rank=4):
    decoder = with_expert(checkpoint, choose_units(checkpoint.config, layers, KINDS), rank, 0)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in trained(decoder).items():
        if name.endswith(".up"):
            parameter.data.normal_(0, 0.1, generator=generator)
    return decoder


def test_units(tiny):
    assert choose_units(tiny.config, (1, 2), ("feed_forward.down", "attention.qkv")) == [
        "layers.1.attention.qkv",
        "layers.1.feed_forward.down",
    ]
    with pytest.raises(UsageError, match=r"--layers 1:9 does not fit the model: it has 2 layers"):
        choose_units(tiny.config, (1, 9), KINDS)
    with pytest.raises(UsageError, match=r"unknown unit 'attention\.q': units are attention\.out"):
        choose_units(tiny.config, (0, 1), ("attention.q",))


def test_a_fresh_expert_is_the_base_model(tiny):
    decoder = with_expert(tiny, choose_units(tiny.config, (0, 2), KINDS), 4, 0)
    (text,) = texts_of([20])
    with torch.no_grad():
        hidden = read_pass(decoder, make_pass([text]))
        logits = decoder.head(hidden).numpy()
    expected = EagerModel(tiny).logits(text.tokens[:-1].tolist())
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_attention_within_texts_is_that_of_the_decoder(tiny):
    made = make_pass(texts_of([9, 17, 5, 1]))
    decoder, plain = lively(tiny, (0, 2)), lively(tiny, (0, 2))
    for layer in plain.layers:
        layer.append, layer.attend = float_ops.rope_append, float_ops.attention
    ours = read_pass(decoder, made)
    caches = new_caches(tiny.config, 32, torch.float32)
    tokens, placement = torch.from_numpy(made.tokens), torch.from_numpy(made.placement)
    theirs = plain.norm(plain.hidden(tokens, placement, caches, torch.ones(tokens.numel(), 1)))
    np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=2e-5)
    assert not torch.equal(ours, read_pass(decoder, made, expert=False))
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    for result in (ours, theirs):
        (result * direction).sum().backward()
    expected = trained(plain)
    for name, parameter in trained(decoder).items():
        assert expected[name].grad.abs().max() > 0
        np.testing.assert_allclose(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-4)


def test_what_is_trained(tiny):
    decoder = lively(tiny)
    assert sorted(trained(decoder)) == sorted(
        f"layers.1.{kind}.{end}" for kind in KINDS for end in ("down", "up")
    )
    whole = trained(in_full(tiny))
    assert "rotation" not in whole
    assert sum(value.numel() for value in whole.values()) == sum(
        int(np.prod(tensor.shape)) for tensor in tiny.tensors.values()
    )


def test_nothing_is_kept_below_the_first_expert(tiny):
    decoder = lively(tiny)
    seen = []
    decoder.layers[0].register_forward_hook(lambda *call: seen.append(call[2][0].requires_grad))
    decoder.layers[1].register_forward_hook(lambda *call: seen.append(call[2][0].requires_grad))
    read_pass(decoder, make_pass(texts_of([5])))
    assert seen == [False, True]


def test_first_values_follow_the_seed(tiny):
    units = choose_units(tiny.config, (1, 2), KINDS)
    first, again, other = (with_expert(tiny, units, 4, seed) for seed in (1, 1, 2))
    name = "layers.1.attention.qkv.down"
    assert torch.equal(trained(first)[name], trained(again)[name])
    assert not torch.equal(trained(first)[name], trained(other)[name])
    assert float(trained(first)[name].detach().abs().max()) <= 1 / 8
