"""The metric `calibration`: how far a model's confidence is from how often it is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
from gemcore.errors import GemError, UsageError
from gemcore.reports import MetricResult

NAMES = ("confidence", "correct")


@attrs.frozen
class CalibrationMetric:
    """Expected calibration error (arXiv 1706.04599): answers are put into bins by their confidence.

    Of each bin the distance between mean confidence and share of right answers counts, with the share
    of all answers that are in it. The interval is that of a bootstrap, the middle 95 %, with the value
    itself in it: resampling only adds noise to a distance, so the percentiles alone lie too high.
    """

    bins: int
    resamples: int
    seed: int

    def compute(self, results: Mapping[str, Any]) -> MetricResult:
        """Compute the error of `confidence`, from 0 to 1, and `correct`, true or false, an answer each.

        Raises:
            UsageError: a name is missing, the two do not fit, or a confidence is not from 0 to 1.
            GemError: there are no answers.
        """
        for name in NAMES:
            if name not in results:
                raise UsageError(f"metric 'calibration' needs '{name}', but has {sorted(results)}")
        confidence, correct = (np.asarray(results[name], np.float64) for name in NAMES)
        if confidence.shape != correct.shape or confidence.ndim != 1:
            raise UsageError(
                f"'confidence' has {confidence.size} values, and 'correct' has {correct.size}"
            )
        if not confidence.size:
            raise GemError("metric 'calibration' is undefined: there are no answers")
        if not ((confidence >= 0) & (confidence <= 1)).all():
            raise UsageError("a confidence is not from 0 to 1")
        # In one order, so that the bootstrap does not depend on that of the answers.
        order = np.lexsort((correct, confidence))
        confidence, correct = confidence[order], correct[order]
        value = self._error(confidence, correct)
        generator = np.random.default_rng(self.seed)
        errors = []
        for _ in range(self.resamples):
            drawn = generator.integers(len(correct), size=len(correct))
            errors.append(self._error(confidence[drawn], correct[drawn]))
        low, high = np.percentile(errors, [2.5, 97.5])
        return MetricResult(
            value=value,
            low=min(value, float(low)),
            high=max(value, float(high)),
            higher_is_better=False,
            version=1,
        )

    def known_answers(self) -> Iterator[tuple[Mapping[str, Any], float]]:
        """Results whose value is plain to see, for `gem plugins validate`."""
        yield {"confidence": [1.0, 1.0, 0.0], "correct": [True, True, False]}, 0.0
        yield {"confidence": [1.0, 1.0], "correct": [False, False]}, 1.0

    def _error(
        self, confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.float64]
    ) -> float:
        places = np.minimum((confidence * self.bins).astype(np.int64), self.bins - 1)
        surplus = np.bincount(places, confidence - correct, self.bins)
        return float(np.abs(surplus).sum() / len(correct))
