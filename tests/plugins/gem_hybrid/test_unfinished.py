"""A run that was stopped goes on where it was, and gives the same bits."""

import numpy as np
import pytest

from gem_hybrid import packing, sensitivity
from gem_hybrid.sensitivity import measure_choices
from gem_hybrid.unfinished import FOLDER, UnfinishedWeights
from gemcore.models.layout import weight_units
from gemcore.packing import packed_shape
from gemcore.schemes import get_scheme


class StoppedError(Exception):
    pass


def test_rounding_goes_on(tiny, make, cache, monkeypatch):
    quantizer = make(bits=6, schemes="q4a-g32 q8-g32")
    plan = quantizer.plan(tiny)
    whole, report = quantizer.apply(tiny, plan)
    assert not any((cache / FOLDER).iterdir())

    def stop(done, total):
        if done == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        quantizer.apply(tiny, plan, stop)
    (folder,) = (cache / FOLDER).iterdir()
    assert len(list(folder.iterdir())) == 6
    (folder / "embedding.npy").write_bytes(b"damaged")
    calls = []
    original = packing.round_calibrated

    def counted(weight, *others):
        calls.append(weight.shape)
        return original(weight, *others)

    monkeypatch.setattr(packing, "round_calibrated", counted)
    again, same = quantizer.apply(tiny, plan)
    assert len(calls) == len(plan.entries) - 6 + 1
    assert same == report
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array)
    assert not any((cache / FOLDER).iterdir())


def test_measuring_goes_on(tiny, make, cache, monkeypatch):
    quantizer = make(bits=6, schemes="q4a-g32 q8-g32")
    text = quantizer.calibration(tiny)

    def choices(step=None):
        return measure_choices(tiny, text, ("q4a-g32", "q8-g32"), step=step)

    whole = choices()
    for path in (cache / "sensitivity").iterdir():
        path.unlink()
    monkeypatch.setattr(sensitivity, "SECONDS_TO_LOSE", 0.0)

    def stop(done, total):
        if done == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        choices(stop)
    (path,) = (cache / "sensitivity").glob("*.json")
    assert ".partial." in path.name
    calls = []
    original = sensitivity._choices

    def counted(checkpoint, unit, *others):
        calls.append(unit.name)
        return original(checkpoint, unit, *others)

    monkeypatch.setattr(sensitivity, "_choices", counted)
    again = choices()
    names = [unit.name for unit in weight_units(tiny.config)]
    assert calls == [*names[5:], names[0]]  # the embedding is the head, and comes last
    for ours, theirs in zip(again, whole, strict=True):
        assert [c.error for c in ours.choices] == pytest.approx([c.error for c in theirs.choices])
    assert [".partial." in path.name for path in (cache / "sensitivity").glob("*.json")] == [False]


def test_what_does_not_fit_is_not_used(tiny, cache):
    unit, scheme = weight_units(tiny.config)[1], get_scheme("q4a-g32")
    kept = UnfinishedWeights({"model": "a"})
    assert kept.read(unit, scheme) is None
    packed = np.ones(packed_shape(scheme, unit.shape), np.uint8)
    kept.write(unit, packed)
    np.testing.assert_array_equal(kept.read(unit, scheme), packed)
    assert kept.read(unit, get_scheme("q8-g32")) is None
    assert UnfinishedWeights({"model": "b"}).read(unit, scheme) is None
    kept.remove()
    assert not kept.folder.exists()


def test_a_cache_that_cannot_be_written_stops_nothing(tiny, make, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("GEM_CACHE", str(blocked))
    quantizer = make(bits=6, schemes="q4a-g32", rounding="calibrated")
    plan = quantizer.plan(tiny, budget=10**7)
    _, report = quantizer.apply(tiny, plan)
    assert report.quantized == len(plan.entries)
