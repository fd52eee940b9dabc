"""Uniform quantizers: every weight is planned, none is rounded that need not be."""

from __future__ import annotations

import attrs
import gguf
import numpy as np
import pytest
from gguf import quants

import gem_uniform
from gem_uniform import quantizer as module
from gemcore.formats.encodings import decoder_of
from gemcore.formats.ggml_blocks import LOSSLESS_SCHEMES
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import weight_units
from gemcore.packing import unpack_weight
from gemcore.schemes import SCHEMES, get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config

RECORDS = {record.name: record for record in gem_uniform.gem_quantizers()}
UNTIED = tiny_config(tied_head=False, qkv_bias=True, intermediate_size=128)


def load(name: str, **options):
    """The quantizer of a record, as the host makes it."""
    _, _, attribute = RECORDS[name].loader.partition(":")
    defaults = {option.name: option.default for option in RECORDS[name].options}
    return getattr(module, attribute)(**{**defaults, **options})


def stored_as(checkpoint: Checkpoint, encoding: str) -> Checkpoint:
    """The checkpoint with its matrices in an encoding of GGUF."""
    tensors = dict(checkpoint.tensors)
    for name, tensor in tensors.items():
        if len(tensor.shape) == 2:
            data = quants.quantize(tensor.to_float32(), gguf.GGMLQuantizationType[encoding])
            tensors[name] = attrs.evolve(
                tensor, encoding=encoding, data=data, decode=decoder_of(encoding)
            )
    return attrs.evolve(checkpoint, tensors=tensors)


def test_there_is_one_for_every_scheme():
    assert RECORDS.keys() == SCHEMES.keys()
    for name, record in RECORDS.items():
        assert load(name).scheme == name
        lossless = "lossless-repacking" in record.capabilities
        assert lossless == (name in LOSSLESS_SCHEMES.values())


@pytest.mark.parametrize(
    ("name", "head"),
    [(name, "f16" if name == "f16" else "q8-g32") for name in SCHEMES],
)
def test_embedding_and_head_keep_more_bits_by_default(name, head):
    plan = load(name).plan(tiny_checkpoint(UNTIED)).schemes()
    assert plan.pop("embedding") == plan.pop("head") == head
    assert set(plan.values()) == {name}


@pytest.mark.parametrize(
    "config", [tiny_config(intermediate_size=128), UNTIED], ids=["tied", "untied"]
)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_plan_covers_every_weight_with_its_true_size(name, config):
    checkpoint, quantizer = tiny_checkpoint(config), load(name)
    plan = quantizer.plan(checkpoint)
    assert [entry.unit for entry in plan.entries] == [unit.name for unit in weight_units(config)]
    assert plan.skipped == ()
    weights, report = quantizer.apply(checkpoint, plan)
    for entry in plan.entries:
        assert weights[f"{entry.unit}.packed"].nbytes == entry.bytes
    assert report.bytes_after == sum(entry.bytes for entry in plan.entries)


def test_the_head_may_be_chosen():
    quantizer = load("q4a-g32", head="f16")
    plan = quantizer.plan(tiny_checkpoint(UNTIED))
    assert plan.quantizer == "q4a-g32:head=f16"
    assert plan.schemes()["embedding"] == plan.schemes()["head"] == "f16"
    assert plan.schemes()["layers.0.attention.qkv"] == "q4a-g32"


def test_a_weight_that_does_not_fit_falls_back_and_says_why():
    config = tiny_config(hidden_size=48)
    checkpoint, quantizer = tiny_checkpoint(config), load("q4a-g32")
    plan = quantizer.plan(checkpoint)
    narrow = [unit.name for unit in weight_units(config) if unit.shape[1] == 48]
    assert 0 < len(narrow) < len(plan.entries)
    assert [name for name, _ in plan.skipped] == narrow
    for name, reason in plan.skipped:
        wanted = "q8-g32" if name == "embedding" else "q4a-g32"
        assert reason == f"not {wanted}: its 48 inputs are not a multiple of the group size 32"
    for entry in plan.entries:
        assert entry.scheme == ("f16" if entry.unit in narrow else "q4a-g32")
        assert entry.reason == ("as asked" if entry.unit not in narrow else
                                "its 48 inputs are not a multiple of the group size 32")  # fmt: skip
    _, report = quantizer.apply(checkpoint, plan)
    assert report.skipped == plan.skipped
    assert report.quantized == len(plan.entries) - len(narrow)


@pytest.mark.parametrize("encoding", LOSSLESS_SCHEMES)
def test_a_file_in_the_same_codes_loses_nothing(encoding):
    checkpoint = stored_as(tiny_checkpoint(UNTIED), encoding)
    name = LOSSLESS_SCHEMES[encoding]
    quantizer = load(name, head=name)
    weights, report = quantizer.apply(checkpoint, quantizer.plan(checkpoint))
    units = weight_units(UNTIED)
    assert report.lossless == len(units)
    for unit in units:
        expected = [checkpoint.tensors[source].to_float32() for source in unit.sources]
        found = unpack_weight(weights[f"{unit.name}.packed"], get_scheme(name), unit.shape[0])
        np.testing.assert_array_equal(found, np.concatenate(expected))


def test_other_codes_are_rounded():
    checkpoint = stored_as(tiny_checkpoint(), "Q4_1")
    quantizer = load("q4s-g32")
    _, report = quantizer.apply(checkpoint, quantizer.plan(checkpoint))
    assert report.lossless == 0
