"""What all conformance suites share: which plugin is meant, and how a check fails.

A suite is a plain class whose methods `test_…` are its checks. pytest collects them from a subclass whose
name begins with `Test`; `gem plugins validate` runs them without pytest. So a check needs no fixtures,
and says what is wrong in words of its own.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from gemcore.errors import PluginError
from gemcore.options import PluginChoice, parse_words

if TYPE_CHECKING:
    from gemcore.plugins import PluginHost, Selection
    from gemcore.records import PluginRecord

Check = TypeVar("Check", bound=Callable[..., Any])


def require(condition: object, message: str) -> None:
    """Fail a check with `message` where `condition` does not hold; not removed by `python -O`."""
    if not condition:
        raise AssertionError(message)


def skip(reason: str) -> NoReturn:
    """Leave a check out, for a reason that is shown."""
    raise unittest.SkipTest(reason)


def compiles(check: Check) -> Check:
    """Mark a check that compiles a model, which takes seconds: pytest's marker `slow`."""
    check.gem_compiles = True  # type: ignore[attr-defined]
    return check


class PluginConformance:
    """The checks of every kind of plugin.

    Attributes:
        kind: `router`, `quantizer`, `metric`, `target` or `benchmarks`; set by the suite of that kind.
        plugin: the plugin under test as a user types it, options included: `token-hash:spread=2`.
    """

    kind: ClassVar[str] = ""
    plugin: ClassVar[str] = ""

    def host(self) -> PluginHost:
        """The plugins to choose from; by default all that are installed."""
        from gemcore.plugins import get_host

        return get_host()

    def options(self) -> Mapping[str, Any]:
        """Options beside those in `plugin`, for values that are known only when the test runs."""
        return {}

    def selection(self) -> Selection[PluginRecord]:
        """The plugin under test, with its options checked."""
        if not self.plugin:
            raise PluginError(f"{type(self).__name__} must say which plugin it tests: plugin = '…'")
        choice = parse_words(self.plugin)
        options = {**self.options(), **choice.options}
        return self.host().select(self.kind, PluginChoice(choice.name, options))

    def create(self) -> Any:
        """A fresh object of the plugin under test, made as GEM makes it."""
        return self.host().create(self.selection())

    @property
    def title(self) -> str:
        """What messages call the plugin: kind, name, distribution and version."""
        selection = self.selection()
        return f"{self.kind} '{selection.record.name}' of {selection.origin}"

    def require(self, condition: object, complaint: str) -> None:
        """Fail where `condition` does not hold; the message begins with the plugin's name."""
        require(condition, "" if condition else f"{self.title}: {complaint}")

    def test_is_described(self) -> None:
        """What its record gives as the source of the method is a web address."""
        url = self.selection().record.reference_url
        self.require(
            url is None or url.startswith(("https://", "http://")),
            f"its reference_url is '{url}', which is no web address",
        )

    def test_can_be_made(self) -> None:
        """The loader returns an object with every method of its kind's protocol."""
        self.create()
