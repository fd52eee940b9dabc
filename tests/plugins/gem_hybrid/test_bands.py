"""Bands of the vocabulary in plans: chosen, kept in files, rounded, exported."""

import attrs
import gguf
import numpy as np
import pytest
from gguf import quants

from gem_hybrid import bands
from gem_hybrid.bands import first_rows
from gem_hybrid.divergence import measure_divergence
from gem_hybrid.gguf_export import check_exportable, write_gguf
from gem_hybrid.plan_file import read_plan, write_plan
from gemcore.errors import UsageError
from gemcore.models.layout import units_of, weight_units
from gemcore.models.weights import banded
from gemcore.packing import unpack_weight
from gemcore.schemes import get_scheme
from gemcore.testing import QuantizerConformance, tiny_checkpoint, tiny_config


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def checkpoint(request):
    return tiny_checkpoint(tiny_config(tied_head=request.param, context_length=256))


@pytest.fixture
def small_bands(monkeypatch):
    """Bands of a vocabulary of 270 tokens, which is too small for them in earnest."""
    monkeypatch.setattr(bands, "FEWEST_ROWS", 16)


def test_each_band_ends_at_four_times_the_end_of_the_one_before():
    assert first_rows(151_936, 3) == (9_488, 37_984)
    assert first_rows(49_152, 2) == (12_288,)
    assert first_rows(32_000, 6) == (496 * 4 + 16, 8_000)


def test_small_vocabularies_stay_whole(checkpoint, make):
    plan = make(bits=6).plan(checkpoint)
    assert plan.vocabulary_bands == ()
    assert "embedding" in plan.schemes()


def test_plans_have_a_precision_for_each_band(checkpoint, make, small_bands):
    quantizer = make(bits=5)
    plan = quantizer.plan(checkpoint)
    assert plan.vocabulary_bands == (16, 64)
    model = banded(checkpoint, plan)
    assert [entry.unit for entry in plan.entries] == [u.name for u in weight_units(model.config)]
    weights, report = quantizer.apply(checkpoint, plan)
    assert {e.unit: e.bytes for e in plan.entries} == {
        e.unit: weights[f"{e.unit}.packed"].nbytes for e in plan.entries
    }
    assert report.bytes_after == sum(entry.bytes for entry in plan.entries)
    text = quantizer.calibration(checkpoint).held_out
    found = measure_divergence(model, plan.schemes(), weights, text)
    assert 0 < found.weights_only < 1


def test_bands_of_one_precision_round_as_the_whole(make, small_bands):
    """Rows do not depend on each other, but where two uses of an embedding share a Hessian."""
    checkpoint = tiny_checkpoint(tiny_config(tied_head=False, context_length=256))
    text = make(bits=5).calibration(checkpoint).held_out
    found = []
    for count in (1, 3):
        quantizer = make(bits=5, schemes="q4a-g32", bands=count)
        plan = quantizer.plan(checkpoint)
        weights, _ = quantizer.apply(checkpoint, plan)
        model = banded(checkpoint, plan)
        found.append(measure_divergence(model, plan.schemes(), weights, text).weights_only)
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_plans_with_bands_are_kept_in_files(checkpoint, make, small_bands, tmp_path):
    plan, path = make(bits=5).plan(checkpoint), tmp_path / "plan.toml"
    write_plan(path, checkpoint, plan)
    found = read_plan(path, checkpoint, "x")
    assert found.schemes() == plan.schemes()
    assert found.vocabulary_bands == plan.vocabulary_bands
    text = path.read_text()
    for rows, sentence in [
        ("[64, 16]", "must begin at ascending multiples of 16 below its size 270"),
        ("'16'", r"vocabulary_bands must be a list of rows, as \[3072, 12288\]"),
        ("[true]", "vocabulary_bands must be a list of rows"),
        ("[16]", "unknown weight 'embedding.2'|gives no precision"),
    ]:
        path.write_text(text.replace("[16, 64]", rows))
        with pytest.raises(UsageError, match=sentence):
            read_plan(path, checkpoint, "x")


def test_bands_are_one_tensor_of_a_gguf_file(checkpoint, make, small_bands, tmp_path):
    quantizer = make(bits=5, schemes="q3z-g32 q4z-g32 q5a-g64")
    plan = quantizer.plan(checkpoint)
    weights, _ = quantizer.apply(checkpoint, plan)
    path = tmp_path / "bands.gguf"
    write_gguf(path, checkpoint, plan, weights)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    found = tensors["token_embd.weight"]
    schemes = plan.schemes()
    values = [
        unpack_weight(weights[f"{u.name}.packed"], get_scheme(schemes[u.name]), u.shape[0])
        for u in units_of(banded(checkpoint, plan).config, "embedding")
    ]
    expected = np.concatenate(values)
    largest = 2.0**-10 * np.abs(expected).max()  # of minima that are rounded to float16
    dequantized = quants.dequantize(found.data, found.tensor_type)
    np.testing.assert_allclose(dequantized, expected, rtol=0, atol=largest)


def test_bands_that_no_type_holds_together_are_refused(checkpoint, make, small_bands):
    plan = make(bits=5, schemes="q4z-g32").plan(checkpoint)
    changed = [
        attrs.evolve(entry, scheme="q6-g32" if entry.unit == "embedding.0" else entry.scheme)
        for entry in plan.entries
    ]
    with pytest.raises(UsageError, match="bands of embedding are q6-g32, q4z-g32, q4z-g32, which"):
        check_exportable(checkpoint, attrs.evolve(plan, entries=tuple(changed)))


@pytest.mark.slow
class TestPlansWithBands(QuantizerConformance):
    """They keep the contract of quantizers; compiled models are in `tests/models/test_bands.py`."""

    plugin, calibration = "hybrid:bits=8.4", None

    @pytest.fixture(autouse=True)
    def _small(self, small_bands):
        """A tiny vocabulary has bands, too."""
