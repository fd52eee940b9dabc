"""The frozen records that hooks yield: what a plugin offers, said without importing it.

A record holds a name, a summary, options, capabilities and a lazy loader `"module:attribute"`.
Making one imports neither torch nor tvm; `PluginHost.create` follows the loader when the plugin is
selected.
"""

from __future__ import annotations

import math
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from gemcore._deprecated import Deprecation, GemDeprecationWarning
from gemcore.models.cache_layout import CACHE_SCHEMES, DEFAULT_CACHE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "HOOK_API_VERSION",
    "TYPE_NAMES",
    "BenchmarkRecord",
    "Deprecation",
    "ExpertSetRecord",
    "GemDeprecationWarning",
    "MetricRecord",
    "ModelSourceRecord",
    "Option",
    "OptionType",
    "PluginRecord",
    "QuantizerRecord",
    "RouterRecord",
    "TargetRecord",
]

HOOK_API_VERSION = 1
"""The version of the hook specifications; a plugin that declares a newer one is not loaded."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_LOADER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")

OptionType = type[bool] | type[int] | type[float] | type[str]

TYPE_NAMES: Mapping[type, str] = MappingProxyType(
    {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
)
"""What types are called in messages."""


def _check_name(instance: Any, attribute: Any, value: str) -> None:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError(
            f"name {value!r} must be lower-case letters, digits, '.', '_' or '-', as users type it"
        )


def _check_loader(instance: Any, attribute: Any, value: str) -> None:
    if not isinstance(value, str) or not _LOADER.match(value):
        raise ValueError(f"loader {value!r} must have the form 'package.module:attribute'")


def _tuple_or_none(values: Iterable[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _check_summary(instance: Any, attribute: Any, value: str) -> None:
    if not isinstance(value, str) or not value.strip() or len(value.splitlines()) != 1:
        raise ValueError(f"summary {value!r} must be one line of text")


def _check_options(instance: Any, attribute: Any, value: tuple[Option, ...]) -> None:
    if not all(isinstance(option, Option) for option in value):
        raise TypeError(f"options {value!r} must be Option records")
    names = [option.name for option in value]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"option '{name}' is declared {names.count(name)} times")


@attrs.frozen(kw_only=True)
class Option:
    """One option of a plugin, as typed in `--router scar:max_experts=2` or in a TOML table.

    Attributes:
        name: a Python identifier.
        type: bool, int, float or str.
        default: the value when the option is not given; None where there is none, and then the
            loader is called with None.
        help: one line for `gem plugins show`.
        minimum, maximum: inclusive bounds of a number.
        choices: the only values allowed.
        allow_non_finite: a float may be infinite or not a number.
        above_minimum: the minimum itself is not allowed.
    """

    name: str
    type: OptionType
    default: Any = None
    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = attrs.field(default=None, converter=_tuple_or_none)
    allow_non_finite: bool = False
    above_minimum: bool = False

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name == "name":
            raise ValueError(f"option name {self.name!r} must be a Python identifier, not 'name'")
        if self.type not in (bool, int, float, str):
            raise ValueError(
                f"option '{self.name}' has type {self.type!r}: bool, int, float or str"
            )
        given = [] if self.default is None else [self.default]
        for value in [*given, *(self.choices or ())]:
            if problem := self.objection(value):
                raise ValueError(f"option '{self.name}' declares {value!r}, which {problem}")

    def objection(self, value: Any) -> str | None:
        """Why `value` is not allowed, as the end of a sentence; None where it is."""
        exact = float if self.type is float and type(value) is int else type(value)
        if exact is not self.type:
            return f"is {TYPE_NAMES.get(type(value), type(value).__name__)}, not {self.type_name}"
        if self.choices is not None and value not in self.choices:
            return f"is none of {', '.join(map(str, self.choices))}"
        return self._out_of_bounds(value) if self.type in (int, float) else None

    def _out_of_bounds(self, value: float) -> str | None:
        if isinstance(value, float) and not math.isfinite(value) and not self.allow_non_finite:
            return "is not a finite number"
        if self.minimum is not None and value < self.minimum:
            return f"is below the minimum {self.minimum}"
        if self.above_minimum and value == self.minimum:
            return f"is not above {self.minimum}"
        if self.maximum is not None and value > self.maximum:
            return f"is above the maximum {self.maximum}"
        return None

    @property
    def type_name(self) -> str:
        """The type in plain words, with its article."""
        return TYPE_NAMES[self.type]


def _options(values: Iterable[Option]) -> tuple[Option, ...]:
    return tuple(values)


def _words(values: Iterable[str]) -> frozenset[str]:
    return frozenset(values)


@attrs.frozen(kw_only=True)
class PluginRecord:
    """What every kind of plugin says of itself.

    Attributes:
        name: what users type.
        summary: one line.
        loader: `"package.module:attribute"`, called with the options as keyword arguments.
        reference_url: the paper or page that the method comes from.
        options: the options that the loader takes.
        capabilities: what it can do, as plain words that other parts may ask for.
        deprecated: set when the record is to go; whoever selects it is warned.
    """

    kind: ClassVar[str] = "plugin"

    name: str = attrs.field(validator=_check_name)
    summary: str = attrs.field(validator=_check_summary)
    loader: str = attrs.field(validator=_check_loader)
    reference_url: str | None = None
    options: tuple[Option, ...] = attrs.field(
        default=(),
        converter=_options,
        validator=_check_options,
    )
    capabilities: frozenset[str] = attrs.field(default=frozenset(), converter=_words)
    deprecated: Deprecation | None = None


@attrs.frozen(kw_only=True)
class RouterRecord(PluginRecord):
    """A router: decides for each token which experts work. Its loader returns a `Router`."""

    kind: ClassVar[str] = "router"


@attrs.frozen(kw_only=True)
class QuantizerRecord(PluginRecord):
    """A quantizer: gives every tensor a scheme. Its loader returns a `protocols.Quantizer`."""

    kind: ClassVar[str] = "quantizer"


@attrs.frozen(kw_only=True)
class MetricRecord(PluginRecord):
    """A metric: a number with an interval from results. Its loader returns a `protocols.Metric`."""

    kind: ClassVar[str] = "metric"


@attrs.frozen(kw_only=True)
class TargetRecord(PluginRecord):
    """A hardware backend: builds and runs a model. Its loader returns a `protocols.Target`.

    Attributes:
        preferred_cache: scheme of the KV cache where the user names none: one of `f16` and `q8`.
    """

    kind: ClassVar[str] = "target"

    preferred_cache: str = attrs.field(
        default=DEFAULT_CACHE, validator=attrs.validators.in_(CACHE_SCHEMES)
    )


@attrs.frozen(kw_only=True)
class ModelSourceRecord(PluginRecord):
    """Where models come from. Its loader returns a `protocols.ModelSource`.

    Attributes:
        models: names that this source can fetch, with one line each; empty for sources of files.
        order: sources are asked in ascending order whether a name is theirs.
    """

    kind: ClassVar[str] = "model source"

    models: tuple[tuple[str, str], ...] = ()
    order: int = 100


@attrs.frozen(kw_only=True)
class BenchmarkRecord(PluginRecord):
    """Benchmarks of the suite. Its loader returns a `protocols.BenchmarkSource`."""

    kind: ClassVar[str] = "benchmarks"


@attrs.frozen(kw_only=True)
class ExpertSetRecord(PluginRecord):
    """A set of experts. Its loader returns the `Path` of its folder.

    Attributes:
        base_name: the model that the experts were trained for, as users type it.
    """

    kind: ClassVar[str] = "expert set"

    base_name: str
