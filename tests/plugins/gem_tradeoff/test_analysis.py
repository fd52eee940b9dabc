"""The whole analysis against the definitions in plain loops, resample by resample."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gem_tradeoff.analysis import MEASURES, Undefined, analyse
from gem_tradeoff.results import parse_results
from gem_tradeoff.scores import VARIANTS, domain_scores
from gemcore.errors import UsageError


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def measures_by_hand(base, special, own, *, lower):
    """All measures from scores by domain, as docs/tradeoff.md writes them."""
    others = [b for b in base if b != own]
    sign = -1 if lower else 1
    gain = {b: sign * (special[b] - base[b]) / base[b] for b in base}
    return {
        "dsi": gain[own] - mean(gain[b] for b in others),
        "gg": sign
        * (
            (special[own] - mean(special[b] for b in others))
            - (base[own] - mean(base[b] for b in others))
        ),
        "cdtr": mean((special[b] / base[b]) ** sign for b in others),
        "forgetting": mean(max(0.0, -gain[b]) for b in others),
        **{f"gain {b}": gain[b] for b in base},
    }


def parsed(make, *owns, **options):
    return [
        parse_results(make(number, own=own, **options), f"file{number}.json")
        for number, own in enumerate((None, *owns))
    ]


@pytest.mark.parametrize("variant", ["task", "text", "answer"])
def test_values_and_intervals_are_those_of_the_definitions(make, variant):
    files = parsed(make, "law", "stem")
    special = [(file, None) for file in files[1:]]
    report = analyse(files[0], special, variants=[variant], resamples=300, seed=3)
    (part,) = report.variants
    scores = domain_scores(files, VARIANTS[variant], resamples=300, seed=3)
    lower = variant != "task"
    for row, model in enumerate(part.models, start=1):
        rows = [
            measures_by_hand(
                dict(zip(scores.domains, values[0], strict=True)),
                dict(zip(scores.domains, values[row], strict=True)),
                model.domain,
                lower=lower,
            )
            for values in scores.values
        ]
        found = {**model.measures, **{f"gain {b}": cell for b, cell in model.gains.items()}}
        assert found.keys() == rows[0].keys()
        for name, cell in found.items():
            assert cell.value == pytest.approx(rows[0][name], abs=1e-12)
            low, high = np.percentile([row[name] for row in rows[1:]], [2.5, 97.5])
            if name == "forgetting":
                assert 0 <= cell.low <= cell.value
                assert cell.high == pytest.approx(max(high, cell.value), abs=1e-12)
            else:
                assert (cell.low, cell.high) == pytest.approx((low, high), abs=1e-12)


def test_a_specialised_model_shows_its_domain(make):
    files = parsed(make, "law", items=300)
    task, text = analyse(files[0], [(files[1], None)]).variants
    for part in (task, text):
        (model,) = part.models
        assert model.label == model.domain == "law"
        assert model.gains["law"].low > 0
        assert model.measures["dsi"].low > 0
        assert model.measures["gg"].low > 0
    # The text of the other domains is foreseen by both alike, but for noise.
    assert text.models[0].measures["cdtr"].value == pytest.approx(1, abs=0.002)
    assert text.models[0].measures["forgetting"].value < 0.002
    # Paired: the interval of the difference is far narrower than that of the scores.
    spread = text.base["stem"].high - text.base["stem"].low
    assert (text.models[0].gains["stem"].high - text.models[0].gains["stem"].low) < spread / 5


def test_the_base_against_itself_is_neutral(make):
    (base,) = parsed(make)
    report = analyse(base, [(base, "stem")])
    for part in report.variants:
        values = {name: part.models[0].measures[name].value for name in MEASURES}
        assert values == pytest.approx({"dsi": 0, "gg": 0, "cdtr": 1, "forgetting": 0}, abs=1e-12)
        for cell in part.models[0].measures.values():
            assert cell.high - cell.low < 1e-12


def test_what_would_be_divided_by_nothing_is_undefined_with_its_reason(make):
    tasks = {"law": {"guessed": ("acc", 0.5)}, "stem": {"sums": ("acc", 0.25)}}
    files = parsed(make, "law", level=0.5, tasks=tasks)
    (part,) = analyse(files[0], [(files[1], None)], variants=["task"]).variants
    (model,) = part.models
    reason = part.reasons[0]
    assert "score above chance on law of file0.json is" in reason
    assert "too near zero to divide by (the interval must lie above 0.01)" in reason
    assert isinstance(model.gains["law"], Undefined)
    assert isinstance(model.measures["dsi"], Undefined)
    # These do not divide by the base's score on law.
    for cell in (
        model.gains["stem"],
        model.measures["gg"],
        model.measures["cdtr"],
        model.measures["forgetting"],
    ):
        assert all(map(math.isfinite, (cell.value, cell.low, cell.high)))


def test_elsewhere_near_zero(make):
    tasks = {"law": {"guessed": ("acc", 0.5)}, "stem": {"sums": ("acc", 0.25)}}
    files = parsed(make, "stem", level=0.5, tasks=tasks)
    (part,) = analyse(files[0], [(files[1], None)], variants=["task"]).variants
    undefined = {n for n, cell in part.models[0].measures.items() if isinstance(cell, Undefined)}
    assert undefined == {"dsi", "cdtr", "forgetting"}


def test_a_variant_that_cannot_be_had_is_said_to_be_missing(make):
    data = make(0)
    for name in [name for name in data["results"] if name.startswith("corpus")]:
        del data["results"][name]
    base = parse_results(data, "base.json")
    report = analyse(base, [(base, "law")], resamples=100)
    assert [part.variant.name for part in report.variants] == ["task"]
    assert report.missing == ("base.json has no held-out text (tasks corpus_DOMAIN)",)
    with pytest.raises(UsageError, match="has no held-out text"):
        analyse(base, [(base, "law")], variants=["text"])


def test_labels_are_unique(make):
    files = parsed(make, "law", "law", "stem")
    report = analyse(files[0], [(file, None) for file in files[1:]], resamples=100)
    labels = [model.label for model in report.variants[0].models]
    assert labels == ["law (file1.json)", "law (file2.json)", "stem (file3.json)"]
    same = analyse(files[0], [(files[1], None)] * 2, resamples=100)
    labels = [model.label for model in same.variants[0].models]
    assert labels == ["law (file1.json), no. 1", "law (file1.json), no. 2"]


def test_domains_that_are_wrong(make):
    base, special = parsed(make, None)
    with pytest.raises(UsageError, match="file1.json does not say for which domain"):
        analyse(base, [(special, None)])
    with pytest.raises(UsageError, match="unknown domain 'laws': did you mean 'law'"):
        analyse(base, [(special, "laws")])
    with pytest.raises(UsageError, match="is for 'law', but of that domain there is no"):
        analyse(base, [(special, "law")], domains=["stem", "healthcare"])
    with pytest.raises(UsageError, match="at least 2 domains, and there is only 'law'"):
        analyse(base, [(special, "law")], domains=["law"])
    with pytest.raises(UsageError, match="unknown variant 'txt': did you mean 'text'"):
        analyse(base, [(special, "law")], variants=["txt"])


def test_json_holds_everything_and_no_infinity(make):
    tasks = {"law": {"guessed": ("acc", 0.5)}, "stem": {"sums": ("acc", 0.25)}}
    files = parsed(make, "law", level=0.5, tasks=tasks)
    report = analyse(files[0], [(files[1], None)], resamples=100)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(data["variants"]) == ["task", "text"]
    (model,) = data["variants"]["task"]["models"]
    assert model["specialised_for"] == "law"
    assert "too near zero" in model["gains"]["law"]["undefined"]
    assert model["gains"]["stem"].keys() == {"value", "low", "high"}
    assert model["measures"].keys() == set(MEASURES)
