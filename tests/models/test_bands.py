"""Embedding and head in bands of rows: the same numbers as those of whole ones, band by band."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from gemcore.build import compile_bundle
from gemcore.errors import FormatError
from gemcore.models.eager import EagerModel
from gemcore.models.layout import units_of
from gemcore.models.weights import banded, float_unit, pack_checkpoint
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.testing.fixed_plan import FixedPlan
from tests.conftest import open_tiny
from tests.vocabulary import BANDS, plan_of

TOKENS = [0, 31, 32, 95, 96, 269, 5, 100, 40]
MIXED = ("q8-g32", "q4z-g32", "q3a-g32")


def eager(checkpoint, plan):
    weights, report = pack_checkpoint(checkpoint, plan)
    return EagerModel(banded(checkpoint, plan), plan.schemes(), weights), report


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def checkpoint(request):
    return tiny_checkpoint(tiny_config(tied_head=request.param, context_length=256))


def test_units_are_bands_of_the_same_rows(checkpoint):
    plan = plan_of(checkpoint.config, MIXED)
    model = banded(checkpoint, plan)
    (whole,) = units_of(checkpoint.config, "embedding")
    bands = units_of(model.config, "embedding")
    assert [(unit.name, unit.rows) for unit in bands] == [
        ("embedding.0", (0, 32)),
        ("embedding.1", (32, 96)),
        ("embedding.2", (96, 270)),
    ]
    parts = [float_unit(model, unit) for unit in bands]
    assert [part.shape for part in parts] == [unit.shape for unit in bands]
    np.testing.assert_array_equal(np.concatenate(parts), float_unit(checkpoint, whole))
    assert banded(model, attrs.evolve(plan, vocabulary_bands=())).config == checkpoint.config


def test_bands_of_one_scheme_are_the_whole(checkpoint):
    ours, report = eager(checkpoint, plan_of(checkpoint.config, ["q4a-g32"] * 3))
    whole, other = eager(checkpoint, plan_of(checkpoint.config, ["q4a-g32"], bands=()))
    np.testing.assert_array_equal(ours.logits(TOKENS), whole.logits(TOKENS))
    assert report.bytes_before == other.bytes_before
    assert report.quantized == other.quantized + (2 if checkpoint.config.tied_head else 4)


@torch.no_grad()
def test_each_band_has_its_own_scheme(checkpoint):
    """Rows and products of each band are those of a whole weight in the band's scheme."""
    mixed, _ = eager(checkpoint, plan_of(checkpoint.config, MIXED))
    tokens = torch.tensor(TOKENS, dtype=torch.int32)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    rows, products = mixed.decoder.embedding.embed(tokens), mixed.decoder.head(x)
    assert products.shape == (3, 270)
    for start, end, scheme in zip((0, *BANDS), (*BANDS, 270), MIXED, strict=True):
        whole, _ = eager(checkpoint, plan_of(checkpoint.config, [scheme], bands=()))
        own = (tokens >= start) & (tokens < end)
        assert own.any()
        assert torch.equal(rows[own], whole.decoder.embedding.embed(tokens)[own])
        assert torch.equal(products[:, start:end], whole.decoder.head(x)[:, start:end])


def test_a_band_may_keep_its_floats(checkpoint):
    model, _ = eager(checkpoint, plan_of(checkpoint.config, ["f16", "q4s-g64", "q2a-g64"]))
    assert np.isfinite(model.logits(TOKENS)).all()


def test_compiled_logits_are_the_eager_ones(checkpoint, tiny_parts, tmp_path):
    tied = checkpoint.config.tied_head
    plan = plan_of(checkpoint.config, MIXED if tied else ["f16", "q5a-g64", "q2z-g32"])
    parts = attrs.evolve(tiny_parts, quantizer=FixedPlan(plan))
    bundle = compile_bundle(checkpoint, parts, tmp_path / "x.gem")
    assert bundle.manifest.config.vocabulary_bands == BANDS
    expected = eager(checkpoint, plan)[0].logits(TOKENS)
    np.testing.assert_array_equal(open_tiny(bundle).logits(TOKENS), expected)


@pytest.mark.parametrize("rows", [(0,), (32, 32), (96, 32), (33,), (272,), (-16,)])
def test_bands_that_are_none_are_refused(rows):
    with pytest.raises(FormatError, match=r"ascending multiples of 16 below its size 270"):
        tiny_config(vocabulary_bands=rows)


def test_a_configuration_with_bands_comes_back_from_json():
    import json

    config = tiny_config(vocabulary_bands=[32, 96])
    again = type(config).from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    assert again.vocabulary_bands == BANDS
