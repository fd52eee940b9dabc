"""A decoder layer in stages, against the layer itself."""

import pytest
import torch

from gem_hybrid.states import (
    finish,
    float_layer,
    layer_stages,
    module_of,
    one_thread,
    rotation_of,
    run_layer,
    set_weight,
    units_of_layer,
)
from gemcore.models.weights import float_unit
from gemcore.testing import tiny_checkpoint, tiny_config


@pytest.fixture(params=[False, True])
def checkpoint(request):
    return tiny_checkpoint(tiny_config(qkv_bias=request.param, context_length=256))


def parts(checkpoint):
    """A layer's units, the layer, and states of two windows to read."""
    units = units_of_layer(checkpoint.config, 1)
    weights = {unit.name: torch.from_numpy(float_unit(checkpoint, unit)) for unit in units}
    generator = torch.Generator().manual_seed(0)
    size = checkpoint.config.hidden_size
    states = [torch.randn(n, size, generator=generator) for n in (40, 7)]
    return units, float_layer(checkpoint, 1, weights), states


def test_stages_compute_what_the_layer_computes(checkpoint):
    units, layer, states = parts(checkpoint)
    config, rotation = checkpoint.config, rotation_of(checkpoint.config)
    seen = {}
    for unit in units:
        module_of(layer, unit).register_forward_pre_hook(
            lambda module, inputs, name=unit.name: seen.setdefault(name, []).append(inputs[0])
        )
    expected = run_layer(layer, config, rotation, states)
    read = {name: list(inputs) for name, inputs in seen.items()}
    stages = layer_stages(layer, config, rotation, states)
    for unit in units:
        name, inputs = next(stages)
        assert unit.name == f"layers.1.{name}"
        torch.testing.assert_close(inputs, read[unit.name])
    torch.testing.assert_close(finish(stages), expected)


def test_a_weight_that_is_replaced_counts_from_then_on(checkpoint):
    units, layer, states = parts(checkpoint)
    config, rotation = checkpoint.config, rotation_of(checkpoint.config)
    stages = layer_stages(layer, config, rotation, states)
    for unit in units:
        next(stages)
        module = module_of(layer, unit)
        set_weight(module, 0.5 * module.weight)
    torch.testing.assert_close(finish(stages), run_layer(layer, config, rotation, states))


def test_one_thread_is_for_a_while():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
