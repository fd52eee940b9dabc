"""From result files to the study: numbers that were put in come out, and what cannot be is said."""

from __future__ import annotations

import json
import statistics

import attrs
import pytest

from gem_study.analysis import study_compression
from gem_study.records import ModelSize
from gem_tradeoff.analysis import Undefined
from gem_tradeoff.results import parse_results
from gemcore.errors import UsageError


def test_losses_that_were_put_in_come_out(measured):
    study = study_compression(measured, resamples=200)
    assert [part.variant.name for part in study.variants] == ["task", "answer", "text"]
    text = study.variants[2]
    for scores, losses in zip(
        text.precisions,
        [(0, 0.01, 0), (0, 0.02, 0.1), (0, 0.05, 0.3)],
        strict=True,
    ):
        # The order in which domains are shown.
        assert text.domains == ("healthcare", "law", "stem")
        values = [scores.gains[domain].value for domain in text.domains]
        assert values == pytest.approx([-loss for loss in losses], abs=1e-9)
        assert scores.mean.value == pytest.approx(-sum(losses) / 3, abs=1e-9)
        assert scores.spread == pytest.approx(statistics.stdev(losses), abs=1e-9)
        # All items lose the same share, so nothing of it is noise.
        assert scores.noise == pytest.approx(0, abs=1e-9)
        assert scores.brittleness.value == pytest.approx(statistics.stdev(losses), abs=1e-6)
        worst = max(range(3), key=lambda place: losses[place])
        assert scores.worst_domain == text.domains[worst]
        assert scores.worst.value == pytest.approx(-losses[worst], abs=1e-9)
        for domain in text.domains:
            before = text.reference[domain].value
            after = scores.scores[domain].value
            assert scores.differences[domain].value == pytest.approx(after - before)
    for name, cell in text.correlations.items():
        assert (cell.value, cell.low, cell.high) == (1, 1, 1), name


def test_scores_of_tasks_are_set_against_chance(measured):
    task = study_compression(measured, variants=["task"], resamples=200).variants[0]
    samples = [one.results.tasks["exam_stem"].samples for one in (measured[0], measured[3])]
    before, after = ((statistics.fmean(s["acc"] for s in part) - 0.25) / 0.75 for part in samples)
    assert task.reference["stem"].value == pytest.approx(before)
    cell = task.precisions[2].gains["stem"]
    assert cell.value == pytest.approx((after - before) / before)
    assert cell.low < cell.value < cell.high < 0
    assert task.precisions[2].noise > 0
    assert task.precisions[2].brittleness.value < task.precisions[2].spread


def test_sizes_and_compression(measured):
    study = study_compression(measured, resamples=100)
    assert study.reference == "f16"
    assert [one.compression for one in study.precisions] == pytest.approx(
        [1, 270 / 145, 270 / 93, 270 / 89]
    )


def test_answers_that_flip_alike_everywhere_are_not_brittle(make, measured):
    noisy = [
        attrs.evolve(
            one,
            results=parse_results(
                make({}, quantizer=one.label, noise=0.02 * number), f"{one.label}.json"
            ),
        )
        for number, one in enumerate(measured)
    ]
    text = study_compression(noisy, variants=["text"], resamples=300).variants[0]
    for scores in text.precisions:
        assert scores.spread > 0
        assert scores.brittleness.low == 0
        assert scores.brittleness.value < 2 * scores.noise
    assert text.correlations["mean_loss"].low < 1


def test_a_reference_near_chance_leaves_its_domain_out(make, measured):
    guessed = []
    for one in measured:
        data = make({}, quantizer=one.label)
        for sample in data["samples"]["exam_law"]:
            sample["acc"] = float(sample["doc_id"] % 4 == 0)
        data["results"]["exam_law"]["acc,none"] = 0.25
        guessed.append(attrs.evolve(one, results=parse_results(data, one.label)))
    task = study_compression(guessed, variants=["task"], resamples=200).variants[0]
    assert list(task.left_out) == ["law"]
    assert "too near zero to divide by" in task.left_out["law"]
    scores = task.precisions[0]
    assert isinstance(scores.gains["law"], Undefined)
    assert scores.differences["law"].value == 0
    assert scores.brittleness.value == 0
    assert "ranks correlate with nothing" in task.correlations["brittleness"].reason


def test_one_domain_has_no_spread(measured):
    study = study_compression(measured, domains=["law"], resamples=100)
    for part in study.variants:
        assert all(isinstance(scores.brittleness, Undefined) for scores in part.precisions)
        assert all(scores.spread is None for scores in part.precisions)
        assert "needs at least 2" in part.correlations["brittleness"].reason
    json.dumps(study.to_json(), allow_nan=False)


def test_correlations_need_sizes_and_three_precisions(measured):
    few = study_compression(measured[:3], resamples=100).variants[0]
    assert "at least 3 precisions beside the reference, and there are 2" in (
        few.correlations["mean_loss"].reason
    )
    unknown = [attrs.evolve(measured[0], size=ModelSize()), *measured[1:]]
    lost = study_compression(unknown, resamples=100)
    assert "f16.json does not say how many bytes" in (
        lost.variants[0].correlations["mean_loss"].reason
    )
    assert {one.compression for one in lost.precisions} == {None}
    same = [attrs.evolve(one, size=ModelSize(bytes=5)) for one in measured]
    assert "the same number of bytes" in (
        study_compression(same, resamples=100).variants[0].correlations["worst_loss"].reason
    )


def test_tasks_that_are_not_everywhere_are_left_out(make, measured):
    data = make({}, quantizer="q8-g32")
    for field in ("results", "configs", "samples", "versions", "task_hashes"):
        del data[field]["exam_stem"]
    measured[1] = attrs.evolve(measured[1], results=parse_results(data, "q8-g32.json"))
    study = study_compression(measured, resamples=100)
    assert study.missing == ("task 'exam_stem' is left out: q8-g32 has no result of it",)
    assert study.variants[0].domains == ("healthcare", "law")
    assert "stem" in study.variants[2].domains


def test_everything_is_json_and_the_same_every_time(measured):
    first, again = (study_compression(measured, resamples=100).to_json() for _ in range(2))
    assert first == json.loads(json.dumps(again, allow_nan=False))
    other = study_compression(measured, resamples=100, seed=1).to_json()
    assert other != first
    assert first["variants"]["text"]["precisions"][2]["worst_domain"] == "stem"


def test_what_is_no_study_is_refused(make, measured):
    with pytest.raises(UsageError, match="needs at least 2, and there is 1"):
        study_compression(measured[:1])
    with pytest.raises(UsageError, match="'f16' is there twice"):
        study_compression([measured[0], measured[0]])
    other = attrs.evolve(measured[1], results=parse_results(make({}, model="other"), "other.json"))
    with pytest.raises(UsageError, match="different models, other and tiny"):
        study_compression([measured[0], other])
    with pytest.raises(UsageError, match="unknown variant 'txt'"):
        study_compression(measured, variants=["txt"])
    with pytest.raises(UsageError, match=r"f16.json has no .*; f16.json has no"):
        study_compression(measured, leave_out=measured[0].results.tasks)
