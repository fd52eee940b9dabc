"""The checks of a metric: known answers, an interval around the value, no dependence on order."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from gemcore.errors import GemError, UsageError
from gemcore.reports import MetricResult
from gemcore.testing.conformance import PluginConformance, require, skip

KnownAnswer = tuple[Mapping[str, Any], float]
"""Results, and the value that a metric has for them, found otherwise than by the metric."""


class MetricConformance(PluginConformance):
    """Subclass this and set `plugin` and `known` to test a metric.

    A metric may bring its known answers itself, by a method `known_answers()`; then `gem plugins validate`
    checks them too.

    Attributes:
        known: pairs of results and the value that was computed for them by other means.
        undefined: results for which the metric is not defined, and raises a GemError.
        needs: names without which `compute` raises a UsageError; by default all of the first results.
        tolerance: how far a value may be from a known answer.
    """

    kind: ClassVar[str] = "metric"
    known: ClassVar[Sequence[KnownAnswer]] = ()
    undefined: ClassVar[Sequence[Mapping[str, Any]]] = ()
    needs: ClassVar[Sequence[str] | None] = None
    tolerance: ClassVar[float] = 1e-9

    def known_answers(self) -> Sequence[KnownAnswer]:
        """`known`, or what the metric brings itself."""
        if self.known:
            return self.known
        own = getattr(self.create(), "known_answers", None)
        return () if own is None else tuple(own())

    def shuffled(self, results: Mapping[str, Any], generator: random.Random) -> Mapping[str, Any]:
        """The same results in another order: lists of one length are shuffled together.

        Override it for results of another form.
        """
        found = dict(results)
        lists = {name: value for name, value in results.items() if isinstance(value, list | tuple)}
        for length in {len(value) for value in lists.values()}:
            order = generator.sample(range(length), length)
            for name, value in lists.items():
                if len(value) == length:
                    found[name] = [value[i] for i in order]
        return found

    def test_known_answers(self) -> None:
        """The value for each of the known results is the known one."""
        for results, expected in self._some():
            found = self.create().compute(results)
            self.require(
                isinstance(found, MetricResult),
                f"its compute() returns {type(found).__name__}, not a MetricResult",
            )
            self.require(
                math.isclose(found.value, expected, rel_tol=self.tolerance, abs_tol=self.tolerance),
                f"it computes {found.value!r} where {expected!r} is known to be right",
            )

    def test_the_interval_holds_the_value(self) -> None:
        """Lower end, value, upper end: finite, and in this order; or no interval at all."""
        for results, _ in self._some():
            found = self.create().compute(results)
            ends = (found.low, found.high)
            self.require(
                (found.low is None) == (found.high is None), f"its interval {ends} has only one end"
            )
            numbers = [found.value, *(end for end in ends if end is not None)]
            self.require(
                all(map(math.isfinite, numbers)), f"it gives {numbers}, not finite numbers"
            )
            if found.low is not None and found.high is not None:
                self.require(
                    found.low <= found.value <= found.high,
                    f"its value {found.value} is not within its interval {ends}",
                )

    def test_the_order_of_the_results_means_nothing(self) -> None:
        """The same results in another order have the same value."""
        for results, _ in self._some():
            first = self.create().compute(results).value
            for seed in range(3):
                other = self.create().compute(self.shuffled(results, random.Random(seed))).value
                self.require(
                    math.isclose(first, other, rel_tol=1e-9, abs_tol=1e-12),
                    f"its value is {first!r}, and {other!r} for the same results in another order",
                )

    def test_the_same_twice(self) -> None:
        """The same results give the same value and interval, and are not changed."""
        for results, _ in self._some():
            before = copy.deepcopy(results)
            metric = self.create()
            first, second = metric.compute(results), metric.compute(results)
            self.require(
                first == second, f"it gives {first} and then {second} for the same results"
            )
            self.require(results == before, "its compute() changes the results that it is given")

    def test_a_missing_name_is_a_usage_error(self) -> None:
        """Without one of the names that it needs, `compute` raises a UsageError that says which."""
        cases: list[tuple[str, Mapping[str, Any]]] = [("", {})]
        for results, _ in self.known_answers()[:1]:
            cases += [
                (name, {key: v for key, v in results.items() if key != name})
                for name in (results if self.needs is None else self.needs)
            ]
        for name, results in cases:
            error = self._error_of(results)
            without = f"without '{name}'" if name else "without any results"
            self.require(
                isinstance(error, UsageError), f"{without} it {_told(error)}, not a UsageError"
            )
            self.require(name in str(error), f"{without} its message does not say so: {error}")

    def test_undefined_is_an_error_and_no_number(self) -> None:
        """For results without a value it raises a GemError rather than give NaN or infinity."""
        if not self.undefined:
            skip("the suite was given no results for which the metric is undefined")
        for results in self.undefined:
            error = self._error_of(results)
            self.require(
                isinstance(error, GemError), f"for undefined results it {_told(error)}, no GemError"
            )

    def _some(self) -> Iterable[KnownAnswer]:
        known = self.known_answers()
        if not known:
            if type(self).__name__.startswith("Test"):
                name = type(self).__name__
                require(False, f"{name} must give known answers: known = ((results, value), …)")
            skip("known answers are in the plugin's own tests, or in its known_answers()")
        return known

    def _error_of(self, results: Mapping[str, Any]) -> Exception | None:
        try:
            self.create().compute(results)
        except Exception as error:
            return error
        return None


def _told(error: Exception | None) -> str:
    return "gives a value" if error is None else f"raises {type(error).__name__} ({error})"
