"""What makes up each weight of the decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from gemcore.models.cache_layout import cache_shapes
from gemcore.models.config import expected_shapes
from gemcore.models.decoder import Decoder, dense_schemes
from gemcore.models.layout import norm_sources, rotation_table, weight_units
from gemcore.testing import tiny_config

SHAPES = {
    "tied": tiny_config(),
    "qwen2": tiny_config(tied_head=False, qkv_bias=True, heads=6, head_dim=10),
}
configs = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)


@configs
def test_every_tensor_is_used_once(config):
    used = [*norm_sources(config).values()]
    for unit in weight_units(config):
        used += [*unit.sources, *unit.bias_sources]
    assert sorted(used) == sorted(expected_shapes(config))


@configs
def test_units_are_the_parameters_of_the_decoder(config):
    with torch.device("meta"):
        parameters = dict(Decoder(config, dense_schemes(config)).named_parameters())
    units = weight_units(config)
    for unit in units:
        assert parameters[f"{unit.name}.weight"].shape == unit.shape
        assert unit.parameters == parameters[f"{unit.name}.weight"].numel()
    named = {f"{unit.name}.weight" for unit in units}
    named |= {f"{unit.name}.bias" for unit in units if unit.bias_sources}
    assert parameters.keys() == named | norm_sources(config).keys() | {"rotation"}


@pytest.mark.parametrize(("head_dim", "theta"), [(16, 1e4), (64, 1e5), (80, 1e6)])
def test_rotation_is_that_of_transformers(head_dim, theta):
    config = tiny_config(head_dim=head_dim, rope_theta=theta, context_length=300)
    rotary = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=4 * head_dim,
            num_attention_heads=4,
            head_dim=head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
        )
    )
    cosine, sine = rotary(torch.zeros(1), torch.arange(300)[None])
    expected = torch.cat([cosine[0, :, : head_dim // 2], sine[0, :, : head_dim // 2]], dim=1)
    np.testing.assert_allclose(rotation_table(config), expected.numpy(), atol=3e-5)


def test_cache_shapes_hold_every_position():
    keys, values = cache_shapes(tiny_config(), 48)
    assert keys == (2, 3, 16, 16)
    assert values == (2, 48, 16)
