"""The hybrid quantizer as a whole: limits kept, errors in sentences, packed arrays as planned."""

import attrs
import gguf
import numpy as np
import pytest
from gguf import quants

import gem_hybrid
from gem_hybrid import sensitivity
from gem_hybrid.divergence import measure_divergence
from gem_uniform.quantizer import q4s_g32
from gemcore.build import bundle_key
from gemcore.errors import FormatError, UsageError
from gemcore.formats.encodings import decoder_of
from gemcore.models.layout import weight_units
from gemcore.models.weights import float_unit
from gemcore.packing import unpack_weight
from gemcore.schemes import SCHEMES, fits, get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config

UNTIED = tiny_config(tied_head=False, qkv_bias=True, context_length=256)
SIZES = {"q4s-g32": 4.5, "q4a-g32": 5.0, "q8-g32": 8.5}


def size(plan):
    return sum(entry.bytes for entry in plan.entries)


def test_the_record_says_what_it_takes():
    (record,) = gem_hybrid.gem_quantizers()
    assert record.name == "hybrid"
    assert {"budget", "bits", "max_kl", "plan", "calibration"} <= {o.name for o in record.options}


@pytest.mark.parametrize("bits", [4.6, 6, 8.5, 16])
def test_a_plan_keeps_its_budget_and_its_sizes_are_true(tiny, make, bits):
    quantizer = make(bits=bits)
    plan = quantizer.plan(tiny)
    assert [entry.unit for entry in plan.entries] == [u.name for u in weight_units(tiny.config)]
    assert all(entry.reason for entry in plan.entries)
    assert size(plan) <= bits / 16 * sum(e.bytes for e in make(bits=16).plan(tiny).entries)
    weights, report = quantizer.apply(tiny, plan)
    for entry in plan.entries:
        assert weights[f"{entry.unit}.packed"].nbytes == entry.bytes
    assert report.bytes_after == size(plan)
    assert report.quantized == sum(get_scheme(e.scheme).grouped for e in plan.entries)


def test_more_bytes_never_cost_more(tiny, make):
    plans = [make(bits=bits).plan(tiny) for bits in (4.5, 5, 6, 7, 8.5, 16)]
    errors = [sum(entry.expected_error for entry in plan.entries) for plan in plans]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 100 * errors[-1]


def test_it_beats_one_precision_of_the_same_size(tiny, make):
    """By measurement, on text that was not calibrated with."""
    uniform = q4s_g32(head="q4s-g32")
    plan = uniform.plan(tiny)
    quantizer = make(budget=str(size(plan)))
    ours = quantizer.plan(tiny)
    assert size(ours) <= size(plan)
    text = quantizer.calibration(tiny).held_out
    theirs = measure_divergence(tiny, plan.schemes(), uniform.apply(tiny, plan)[0], text)
    found = measure_divergence(tiny, ours.schemes(), quantizer.apply(tiny, ours)[0], text)
    assert found.kl < theirs.kl


def test_a_limit_on_the_divergence_takes_few_bytes(tiny, make):
    loose, tight = make(max_kl=1e-3).plan(tiny), make(max_kl=1e-5).plan(tiny)
    assert size(loose) < size(tight)
    for plan, most in ((loose, 1e-3), (tight, 1e-5)):
        assert sum(entry.expected_error for entry in plan.entries) <= most


def test_calibrated_rounding_loses_less_layer_by_layer(make):
    checkpoint = tiny_checkpoint(UNTIED)
    calibrated = make(bits=5, schemes="q4a-g32")
    nearest = make(bits=5, schemes="q4a-g32", rounding="nearest")
    plan = calibrated.plan(checkpoint)
    windows = calibrated.calibration(checkpoint).windows
    ours, theirs = (
        measure_divergence(checkpoint, plan.schemes(), q.apply(checkpoint, plan)[0], windows)
        for q in (calibrated, nearest)
    )
    assert ours.kl < 0.7 * theirs.kl


def test_all_schemes_are_choices(tiny, make):
    shapes = {unit.name: unit.shape for unit in weight_units(tiny.config)}
    for unit in make(bits=5, schemes=" ".join(SCHEMES)).choices(tiny):
        fitting = [n for n in SCHEMES if fits(get_scheme(n), shapes[unit.unit]) is None]
        assert [choice.scheme for choice in unit.choices] == fitting
        assert {name for name, _ in unit.obstacles} == set(SCHEMES) - set(fitting)


def test_the_table_is_kept_in_the_cache(tiny, make, cache, monkeypatch):
    first = make(bits=5).choices(tiny)
    (path,) = (cache / "sensitivity").glob("*.json")
    monkeypatch.setattr(sensitivity, "measure_importance", None)
    assert make(bits=8).choices(tiny) == first
    for damage in ("", "{}", path.read_text().replace('"bytes": ', '"bytes": 1')):
        path.write_text(damage)
        with pytest.raises(TypeError):
            make(bits=8).choices(tiny)


def test_files_in_the_same_codes_lose_nothing(make):
    checkpoint = tiny_checkpoint(UNTIED)
    tensors = dict(checkpoint.tensors)
    for name, tensor in tensors.items():
        if len(tensor.shape) == 2:
            data = quants.quantize(tensor.to_float32(), gguf.GGMLQuantizationType.Q4_0)
            tensors[name] = attrs.evolve(
                tensor, encoding="Q4_0", data=data, decode=decoder_of("Q4_0")
            )
    checkpoint = attrs.evolve(checkpoint, tensors=tensors, identity="q4_0")
    quantizer = make(max_kl=1e-9)
    plan = quantizer.plan(checkpoint)
    assert set(plan.schemes().values()) == {"q4s-g32"}
    assert {entry.reason for entry in plan.entries} == {"holds the file's codes exactly"}
    weights, report = quantizer.apply(checkpoint, plan)
    assert report.lossless == len(plan.entries)
    for unit in weight_units(UNTIED):
        found = unpack_weight(weights[f"{unit.name}.packed"], SCHEMES["q4s-g32"], unit.shape[0])
        np.testing.assert_array_equal(found, float_unit(checkpoint, unit))


def test_weights_that_do_not_fit_are_skipped_with_the_reason(make):
    checkpoint = tiny_checkpoint(tiny_config(hidden_size=48, context_length=256))
    quantizer = make(bits=14)
    plan = quantizer.plan(checkpoint)
    reason = "its 48 inputs are not a multiple of the group size 32"
    assert ("embedding", f"not q2z-g32: {reason}") in plan.skipped
    assert plan.schemes()["embedding"] == "f16"
    _, report = quantizer.apply(checkpoint, plan)
    assert report.skipped == plan.skipped


def test_impossible_limits_say_what_is_possible(tiny, make):
    with pytest.raises(UsageError, match=r"budget=1kB allows 1000 bytes, but the smallest .* take"):
        make(budget="1kB").plan(tiny)
    with pytest.raises(UsageError, match=r"max_kl=1e-06 cannot be reached: the best precisions"):
        make(max_kl=1e-6, schemes="q4a-g32").plan(tiny)
    with pytest.raises(
        UsageError, match=r"needs a limit: budget=80MB, bits=4.5, max_kl=0.02 or latency"
    ):
        make().plan(tiny)
    with pytest.raises(UsageError, match="give a plan or bits, not both"):
        make(plan="x.toml", bits=4.0)
    with pytest.raises(UsageError, match="'80 cows' is no size"):
        make(budget="80 cows")
    with pytest.raises(UsageError, match="unknown scheme 'q4b-g32': did you mean"):
        make(bits=5, schemes="q4b-g32")


def test_bytes_may_be_limited_by_the_caller(tiny, make):
    plan = make().plan(tiny, budget=60_000)
    assert size(plan) <= 60_000
    assert size(make(bits=5).plan(tiny, budget=10**9)) <= size(make(bits=5).plan(tiny))
    with pytest.raises(UsageError, match="a budget or max_kl=0.1, not both"):
        make(max_kl=0.1).plan(tiny, budget=60_000)


def test_texts_of_the_caller_are_calibrated_with(tiny, make):
    with pytest.raises(UsageError, match="the calibration text is too short: it has 3 tokens"):
        make(bits=5).plan(tiny, calibration=["abc"])


def test_weights_that_are_not_finite_are_named(tiny, make):
    name = "model.layers.1.mlp.down_proj.weight"
    values = tiny.tensors[name].to_float32()
    values[3, 5] = np.nan
    broken = {**tiny.tensors, name: attrs.evolve(tiny.tensors[name], data=values)}
    checkpoint = attrs.evolve(tiny, tensors=broken, identity="broken")
    with pytest.raises(FormatError, match=r"layers.1.mlp.down_proj.weight .* holds NaN"):
        make(bits=5).plan(checkpoint)


def test_an_edited_plan_makes_another_bundle(make, tiny_parts, tmp_path):
    path = tmp_path / "plan.toml"
    keys = set()
    for content in ("a", "b"):
        path.write_text(content)
        parts = attrs.evolve(tiny_parts, quantizer=make(plan=str(path)))
        keys.add(bundle_key("model", parts))
    assert len(keys) == 2
    path.unlink()
    with pytest.raises(UsageError, match="cannot read"):
        bundle_key("model", parts)


def test_its_words_are_what_the_user_typed(text_file, make):
    words = make(bits=5.0, rounding="nearest").words
    assert words == f"hybrid:bits=5.0,calibration={text_file},tokens=1024,rounding=nearest"
