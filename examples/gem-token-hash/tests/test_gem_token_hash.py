"""What GEM asks of every router, and what a hash promises."""

import torch
from gemcore.testing import RouterConformance

from gem_token_hash.router import BITS, SignHash


class TestTokenHashRouter(RouterConformance):
    plugin = "token-hash"


class TestAtFullWeight(RouterConformance):
    plugin = "token-hash:weight=1"


def test_the_expert_is_the_number_of_the_signs_modulo_the_experts():
    numbers = torch.arange(2**BITS)
    bits = (numbers[:, None] >> torch.arange(BITS)) & 1
    weights = SignHash(5, 0.5)(bits * 2.0 - 1, torch.zeros(len(numbers), 5))
    assert torch.equal(weights.argmax(-1), numbers % 5)
    assert torch.equal(weights.sum(-1), torch.full((len(numbers),), 0.5))


def test_one_token_has_one_expert_in_every_text(gem_checkpoint):
    rows = torch.from_numpy(gem_checkpoint.tensors["model.embed_tokens.weight"].to_float32())
    experts = SignHash(3, 1.0)(rows, torch.zeros(len(rows), 3)).argmax(-1)
    text = torch.tensor([50, 60, 50, 70, 60])
    again = SignHash(3, 1.0)(rows[text], torch.zeros(len(text), 3)).argmax(-1)
    assert torch.equal(again, experts[text])
    assert set(experts.tolist()) == {0, 1, 2}
