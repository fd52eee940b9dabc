"""The rotated model computes what the model computes, and nothing of it is where it was."""

import numpy as np
import pytest

from gem_hybrid.rotation import rotated
from gemcore.formats.gguf import load_gguf
from gemcore.models.eager import EagerModel
from gemcore.testing.tiny import tiny_checkpoint, tiny_config


@pytest.mark.parametrize("tied", [True, False])
def test_the_function_is_the_same(tied):
    checkpoint = tiny_checkpoint(tiny_config(tied_head=tied, qkv_bias=True))
    turned = rotated(checkpoint)
    assert turned.identity not in (checkpoint.identity, rotated(checkpoint, seed=1).identity)
    assert not turned.config.tied_head
    ids = list(range(40))
    expected, found = EagerModel(checkpoint).logits(ids), EagerModel(turned).logits(ids)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_gains_are_folded_and_weights_turned(tiny):
    turned = rotated(tiny)
    for name, tensor in turned.tensors.items():
        values = tensor.to_float32()
        assert values.dtype == np.float32
        assert values.shape == tensor.shape
        if name.endswith("norm.weight"):
            np.testing.assert_array_equal(values, 1)
        elif name in tiny.tensors and values.ndim == 2:
            assert np.abs(values - tiny.tensors[name].to_float32()).max() > 0.01
    # A rotation keeps lengths.
    before = tiny.tensors["model.embed_tokens.weight"].to_float32()
    after = turned.tensors["model.embed_tokens.weight"].to_float32()
    np.testing.assert_allclose(
        np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), rtol=1e-5
    )


@pytest.mark.slow
def test_the_default_model_is_the_same(default_model_path):
    checkpoint = load_gguf(default_model_path)
    ids = list(range(100, 164))
    expected = EagerModel(checkpoint).logits(ids)
    found = EagerModel(rotated(checkpoint)).logits(ids)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
