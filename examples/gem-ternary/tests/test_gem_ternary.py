"""What GEM asks of every quantizer, and what three values promise."""

import numpy as np
from gemcore.models.layout import weight_units
from gemcore.packing import unpack_weight
from gemcore.testing import QuantizerConformance

from gem_ternary.quantizer import SCHEME, TernaryQuantizer, ternary


class TestTernaryQuantizer(QuantizerConformance):
    plugin = "ternary"
    relative_error = 0.5  # three values for normally distributed weights: 0.44 at best


def test_there_are_three_values_in_each_group(gem_checkpoint):
    quantizer = TernaryQuantizer("q8-g32")
    plan = quantizer.plan(gem_checkpoint)
    weights, _ = quantizer.apply(gem_checkpoint, plan)
    units = [
        u for u in weight_units(gem_checkpoint.config) if plan.schemes()[u.name] == SCHEME.name
    ]
    assert len(units) == 4 * gem_checkpoint.config.layers
    for unit in units:
        values = unpack_weight(weights[f"{unit.name}.packed"], SCHEME, unit.shape[0])
        for group in values.reshape(-1, SCHEME.group):
            found = np.unique(group)
            assert len(found) <= 3
            np.testing.assert_array_equal(found, np.unique(-found))


def test_scale_and_threshold_are_those_of_the_paper():
    weight = np.zeros((1, 64), np.float32)
    weight[0, :4] = [4.0, -2.0, 0.05, -0.05]  # mean magnitude 0.0953: below 0.0667 is nothing
    found = ternary(weight)
    assert found.codes[0, :5].tolist() == [2, 0, 1, 1, 1]
    assert found.scales[0, 0] == 3.0
    assert found.minima[0, 0] == -3.0


def test_the_scale_is_the_best_for_the_weights_that_are_kept():
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    found = ternary(weight)
    signs = found.codes.astype(np.float64) - 1
    best = (signs * weight).sum(1) / (signs**2).sum(1)  # least squares
    np.testing.assert_allclose(found.scales[:, 0], best, rtol=1e-3)
