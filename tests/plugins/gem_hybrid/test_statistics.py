"""The expected KL against the KL of weights that were really changed."""

import numpy as np
import pytest
import torch

from gem_hybrid.calibration import calibrate_on
from gem_hybrid.divergence import measure_divergence
from gem_hybrid.rounding import row_errors
from gem_hybrid.statistics import (
    measure_importance,
    measure_inputs,
    rounding_hessian,
    unit_terms,
)
from gemcore.models.eager import EagerModel
from gemcore.models.layout import weight_units
from gemcore.models.weights import float_unit
from gemcore.packing import pack_weight
from gemcore.schemes import get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config


@pytest.mark.parametrize("tied", [True, False])
def test_expected_and_real_divergence_are_of_one_size(tied, text_file):
    checkpoint = tiny_checkpoint(tiny_config(tied_head=tied, qkv_bias=not tied, context_length=256))
    windows = calibrate_on(checkpoint, [text_file.read_text()], 1024).windows
    terms = terms_of(checkpoint, windows)
    units = weight_units(checkpoint.config)
    exact = {f"{u.name}.packed": pack_weight(float_unit(checkpoint, u), F16) for u in units}
    schemes = {unit.name: "f16" for unit in units}
    ratios = {}
    for number, unit in enumerate(units):
        weight = float_unit(checkpoint, unit)
        noise = np.random.default_rng(number).standard_normal(unit.shape, dtype=np.float32)
        changed = weight + 0.02 * float(weight.std()) * noise
        expected = sum(
            0.5 * float((term.rows.numpy() * row_errors(weight, changed, term.hessian)).sum())
            for term in terms[unit.name]
        )
        packed = exact | {f"{unit.name}.packed": pack_weight(changed, F16)}
        real = measure_divergence(checkpoint, schemes, packed, windows).weights_only
        ratios[unit.name] = real / expected
    assert all(1 / 10 < ratio < 10 for ratio in ratios.values()), str(ratios)
    assert 1 / 2 < np.exp(np.mean(np.log([*ratios.values()]))) < 2, ratios


F16 = get_scheme("f16")


def terms_of(checkpoint, windows):
    """The terms of every unit, measured on the windows."""
    names = [unit.name for unit in weight_units(checkpoint.config)]
    importance = measure_importance(checkpoint, windows)
    inputs = {name: one for name, (one,) in measure_inputs(checkpoint, [windows], names)}
    tied = checkpoint.config.tied_head
    assert set(inputs) == set(names if tied else names[1:])
    return {name: unit_terms(name, importance, inputs.get(name), tied) for name in names}


def test_inputs_are_those_of_the_model(tiny, text_file):
    """Of each set by itself, against a model with a hook, and only of what is asked for."""
    windows = calibrate_on(tiny, [text_file.read_text()], 512).windows
    name = "layers.1.feed_forward.down"
    sets = [windows, windows[:1]]
    ((found, (both, first)),) = measure_inputs(tiny, sets, {name})
    assert found == name
    model, seen = EagerModel(tiny), []
    down = model.decoder.layers[1].feed_forward["down"]
    down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for window in windows:
        model.logits(window)
    everything = torch.cat(seen)
    torch.testing.assert_close(both, everything.T @ everything / len(everything))
    torch.testing.assert_close(first, seen[0].T @ seen[0] / len(seen[0]))


def test_the_hessian_of_a_tied_embedding_is_of_both_its_uses(tiny, text_file):
    windows = calibrate_on(tiny, [text_file.read_text()], 512).windows
    hessian = rounding_hessian(terms_of(tiny, windows)["embedding"])
    assert torch.linalg.eigvalsh(hessian.double()).min() > -1e-9


def test_equal_models_do_not_differ(tiny, text_file):
    units = weight_units(tiny.config)
    packed = {f"{u.name}.packed": pack_weight(float_unit(tiny, u), F16) for u in units}
    windows = calibrate_on(tiny, [text_file.read_text()], 512).windows
    found = measure_divergence(tiny, {u.name: "f16" for u in units}, packed, windows)
    assert abs(found.weights_only) < 1e-7
    assert abs(found.kl) < 1e-5  # keys and values are in float16
    assert found.tokens == sum(map(len, windows))
