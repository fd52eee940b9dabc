"""What GEM asks of every metric, and what a calibration error promises."""

import numpy as np
import pytest
from gemcore.errors import UsageError
from gemcore.testing import MetricConformance

from gem_calibration.metric import CalibrationMetric


def by_hand(confidence, correct, bins):
    """The definition, bin by bin: sums of weights times distances."""
    total = 0.0
    for place in range(bins):
        lowest, highest = place / bins, (place + 1) / bins
        inside = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if lowest <= c < highest or (place == bins - 1 and c == 1)
        ]
        if inside:
            mean = sum(c for c, _ in inside) / len(inside)
            right = sum(r for _, r in inside) / len(inside)
            total += len(inside) / len(correct) * abs(mean - right)
    return total


GENERATOR = np.random.default_rng(7)
CONFIDENCE = GENERATOR.random(200).tolist()
CORRECT = (GENERATOR.random(200) < 0.6).tolist()


class TestCalibrationMetric(MetricConformance):
    plugin = "calibration:resamples=100"
    known = (
        ({"confidence": [0.75, 0.75, 0.75, 0.75], "correct": [1, 1, 1, 0]}, 0.0),
        ({"confidence": [0.9, 0.9, 0.1], "correct": [True, False, False]}, (2 * 0.4 + 0.1) / 3),
        ({"confidence": CONFIDENCE, "correct": CORRECT}, by_hand(CONFIDENCE, CORRECT, 10)),
    )
    undefined = ({"confidence": [], "correct": []},)


class TestWithFewBins(MetricConformance):
    plugin = "calibration:bins=3,resamples=100"
    known = (({"confidence": CONFIDENCE, "correct": CORRECT}, by_hand(CONFIDENCE, CORRECT, 3)),)


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            {"confidence": [0.5], "correct": [1, 0]},
            "'confidence' has 1 values, and 'correct' has 2",
        ),
        ({"confidence": [1.5], "correct": [1]}, "a confidence is not from 0 to 1"),
        ({"confidence": [float("nan")], "correct": [1]}, "a confidence is not from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(results, said):
    with pytest.raises(UsageError, match=said):
        CalibrationMetric(10, 100, 0).compute(results)
