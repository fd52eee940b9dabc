"""The frozen records that hooks yield: what a plugin offers, said without importing it.

A record holds a name, a summary, options, capabilities and a lazy loader `"module:attribute"`. Making
one imports neither torch nor tvm; `PluginHost.load` follows the loader when the plugin is selected.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import attrs

HOOK_API_VERSION = 1
"""The version of the hook specifications; a plugin that declares a newer one is not loaded."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_LOADER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")

OptionType = type[bool] | type[int] | type[float] | type[str]


def _check_name(instance: Any, attribute: Any, value: str) -> None:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError(
            f"name {value!r} must be lower-case letters, digits, '.', '_' or '-', as users type it"
        )


def _check_loader(instance: Any, attribute: Any, value: str) -> None:
    if not isinstance(value, str) or not _LOADER.match(value):
        raise ValueError(f"loader {value!r} must have the form 'package.module:attribute'")


@attrs.frozen(kw_only=True)
class Option:
    """One option of a plugin, as typed in `--router scar:max_experts=2` or in a TOML table.

    Attributes:
        name: a Python identifier.
        type: bool, int, float or str.
        default: used when the option is not given; None means that it may be left out.
        help: one line for `gem plugins show`.
        minimum, maximum: inclusive bounds of a number.
        choices: the only values allowed.
    """

    name: str
    type: OptionType
    default: Any = None
    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None


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
    """

    kind: ClassVar[str] = "plugin"

    name: str = attrs.field(validator=_check_name)
    summary: str
    loader: str = attrs.field(validator=_check_loader)
    reference_url: str | None = None
    options: tuple[Option, ...] = ()
    capabilities: frozenset[str] = attrs.field(default=frozenset(), converter=frozenset)


@attrs.frozen(kw_only=True)
class RouterRecord(PluginRecord):
    """A router: decides for each token which experts work. Its loader returns a `protocols.Router`."""

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
    """A hardware backend: builds and runs a model. Its loader returns a `protocols.Target`."""

    kind: ClassVar[str] = "target"


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
