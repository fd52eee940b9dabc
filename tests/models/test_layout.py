"""What makes up each weight of the decoder."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from gemcore.errors import UsageError
from gemcore.models.cache_layout import (
    CACHE_SCHEMES,
    cache_dtype,
    cache_shapes,
    check_cache_scheme,
)
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


def test_a_q8_cache_takes_about_half_the_bytes():
    config = tiny_config(head_dim=64)
    sizes = {
        scheme: sum(math.prod(s) for s in cache_shapes(config, 48, scheme))
        * np.dtype(cache_dtype(scheme)).itemsize
        for scheme in CACHE_SCHEMES
    }
    # A key has 64 codes and two float16 scales, a value 64 codes and one float32 scale.
    assert sizes == {"f16": config.kv_heads * 48 * 256, "q8": config.kv_heads * 48 * 136}


def test_a_cache_scheme_must_be_known_and_fit_the_heads():
    check_cache_scheme("q8", tiny_config(head_dim=96))
    check_cache_scheme("f16", tiny_config(head_dim=80))
    with pytest.raises(UsageError, match="^cache scheme 'q8' needs heads .* of 32, .* are 80 wide"):
        check_cache_scheme("q8", tiny_config(head_dim=80))
    with pytest.raises(UsageError, match="^unknown cache scheme 'q9': Available: f16, q8$"):
        check_cache_scheme("q9", tiny_config())


def test_cache_shapes_hold_every_position():
    keys, values = cache_shapes(tiny_config(), 48)
    assert keys == (2, 3, 16, 16)
    assert values == (2, 48, 16)
