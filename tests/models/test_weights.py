"""From a checkpoint to the arrays of the decoder."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from gemcore.errors import FormatError, GemError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import weight_units
from gemcore.models.weights import dense_weights, pack_checkpoint
from gemcore.packing import unpack_weight
from gemcore.reports import Plan, PlanEntry
from gemcore.schemes import SCHEMES, get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config

CONFIG = tiny_config(tied_head=False, qkv_bias=True, intermediate_size=128)


def plan_of(checkpoint: Checkpoint, scheme: str) -> Plan:
    entries = tuple(
        PlanEntry(unit=unit.name, scheme=scheme, reason="", bytes=0)
        for unit in weight_units(checkpoint.config)
    )
    return Plan(quantizer="test", entries=entries)


def changed(checkpoint: Checkpoint, name: str, values: np.ndarray) -> Checkpoint:
    tensor = attrs.evolve(checkpoint.tensors[name], data=values.astype(np.float32))
    return attrs.evolve(checkpoint, tensors={**checkpoint.tensors, name: tensor})


def test_stacked_weights_are_their_sources_one_below_the_other():
    checkpoint = tiny_checkpoint(CONFIG)
    weights = dense_weights(checkpoint)
    layer = "model.layers.1.self_attn."
    parts = [checkpoint.tensors[f"{layer}{part}_proj.weight"].data for part in "qkv"]
    np.testing.assert_array_equal(weights["layers.1.attention.qkv.weight"], np.vstack(parts))
    biases = [checkpoint.tensors[f"{layer}{part}_proj.bias"].data for part in "qkv"]
    np.testing.assert_array_equal(weights["layers.1.attention.qkv.bias"], np.hstack(biases))
    gate, up = (
        checkpoint.tensors[f"model.layers.0.mlp.{p}_proj.weight"].data for p in ("gate", "up")
    )
    np.testing.assert_array_equal(
        weights["layers.0.feed_forward.gate_up.weight"], np.vstack([gate, up])
    )
    np.testing.assert_array_equal(
        weights["norm.gain"], checkpoint.tensors["model.norm.weight"].data
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_weights_stand_for_the_dense_ones(scheme):
    checkpoint = tiny_checkpoint(CONFIG)
    steps = []
    plan = plan_of(checkpoint, scheme)
    weights, report = pack_checkpoint(checkpoint, plan, lambda *step: steps.append(step))
    dense = dense_weights(checkpoint)
    units = weight_units(CONFIG)
    # Of a group's range, up to twice its largest magnitude, half a step; of a grid with one side shorter
    # a whole one.
    error = {
        "q2z-g32": 0.36,
        "q2a-g64": 0.34,
        "q3z-g32": 0.17,
        "q3a-g32": 0.15,
        "q3a-g64": 0.15,
        "q3s-g32": 0.26,
        "q3s-g64": 0.26,
        "q4z-g32": 0.09,
        "q4a-g32": 0.07,
        "q4a-g64": 0.07,
        "q4s-g32": 0.13,
        "q4s-g64": 0.13,
        "q5z-g32": 0.055,
        "q5a-g32": 0.033,
        "q5a-g64": 0.033,
        "q5s-g32": 0.063,
        "q5s-g64": 0.063,
        "q6-g32": 0.032,
        "q6-g64": 0.032,
        "q8-g32": 0.005,
        "q8-g64": 0.005,
        "f16": 0.0005,
    }[scheme]
    for unit in units:
        packed = weights.pop(f"{unit.name}.packed")
        expected = dense.pop(f"{unit.name}.weight")
        values = unpack_weight(packed, get_scheme(scheme), unit.shape[0])
        assert np.abs(values - expected).max() <= error * np.abs(expected).max()
        report = attrs.evolve(report, bytes_after=report.bytes_after - packed.nbytes)
    # All others are not packed; what is left of the report is what is not of the weights.
    assert weights.keys() == dense.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(values, dense[name])
    assert report.bytes_after == report.lossless == 0
    assert report.bytes_before == 4 * sum(unit.parameters for unit in units)
    assert report.quantized == (0 if scheme == "f16" else len(units))
    assert steps == [(i + 1, len(units)) for i in range(len(units))]


def test_a_plan_of_another_model_is_refused():
    checkpoint = tiny_checkpoint(CONFIG)
    other = tiny_checkpoint(tiny_config(layers=3))
    with pytest.raises(GemError, match=r"does not fit model 'tiny': head differs"):
        pack_checkpoint(checkpoint, plan_of(other, "f16"))


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "model.layers.0.self_attn.k_proj.bias",
        "model.layers.1.mlp.up_proj.weight",
    ],
)
def test_values_that_are_not_finite_are_refused_by_name(name):
    checkpoint = tiny_checkpoint(CONFIG)
    values = checkpoint.tensors[name].data.copy()
    values.flat[3] = np.nan
    broken = changed(checkpoint, name, values)
    # A stacked weight is called by its first source.
    said = name.replace("up_proj", "gate_proj")
    with pytest.raises(FormatError, match=rf"^{said} of model 'tiny'.* NaN or infinite values"):
        pack_checkpoint(broken, plan_of(broken, "q8-g32"))
