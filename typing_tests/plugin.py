"""A plugin with type hints, as a third party writes one: its objects fit the protocols.

Checked by mypy and by pyright in `make check`; never run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import gemcore
from gemcore import GemError, Generation, Recipe, Session, hookimpl
from gemcore.protocols import Metric, Router
from gemcore.records import MetricRecord, Option, RouterRecord
from gemcore.reports import MetricResult

if TYPE_CHECKING:
    import torch


@hookimpl
def gem_routers() -> Iterator[RouterRecord]:
    """A hook keeps its type under the marker."""
    yield RouterRecord(
        name="first",
        summary="sends every token to the first expert",
        loader="typed.plugin:First",
        options=[Option(name="weight", type=float, default=1.0, minimum=0, maximum=1)],
        capabilities={"fit"},
    )


@hookimpl
def gem_metrics() -> Iterator[MetricRecord]:
    """Yield one metric."""
    yield MetricRecord(name="share", summary="share of right answers", loader="typed.plugin:Share")


assert_type(gem_routers(), Iterator[RouterRecord])


class First:
    """A router without a base class."""

    def prior(self, prompt: str) -> Sequence[float] | None:
        """No opinion."""
        return None

    def layer_module(self, layer: int) -> torch.nn.Module | None:
        """No module."""
        return None

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Learn nothing."""


class Share:
    """A metric without a base class."""

    def compute(self, results: Mapping[str, Any]) -> MetricResult:
        """Count."""
        right: Sequence[bool] = results["right"]
        return MetricResult(value=sum(right) / len(right), higher_is_better=True, version=1)


class Half:
    """No router: it has no modules."""

    def prior(self, prompt: str) -> None:
        """No opinion."""


router: Router = First()
metric: Metric = Share()
no_router: Router = Half()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def library(session: Session) -> None:
    """The public names of the library have types, too, though they are imported lazily."""
    assert_type(gemcore.load("smollm2-135m", quantizer="q8-g32"), Session)
    assert_type(session.generate("Hello", max_tokens=3), Generation)
    assert_type("".join(session.stream("Hello")), str)
    assert_type(gemcore.open_session(Path("model.gem")), Session)
    assert_type(Recipe().with_changes(quantizer="q8-g32"), Recipe)
    assert_type(gemcore.__version__, str)
    try:
        gemcore.load(router=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    except GemError as error:
        assert_type(error.exit_code, int)
