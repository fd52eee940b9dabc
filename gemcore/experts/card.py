"""What an expert says of itself: its base, shape, licence, data, how it was made and what it scores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import attrs

from gemcore.errors import FormatError

CARD_VERSION = 1
"""Version of the card's format; a card of a newer one is refused."""

MAX_RANK = 1024
"""The largest rank of an expert: more is no low-rank delta."""

UNIT_FORMS = (
    "layers.N.attention.qkv",
    "layers.N.attention.out",
    "layers.N.feed_forward.gate_up",
    "layers.N.feed_forward.down",
)
"""Weight units that may carry deltas (`gemcore.models.layout.weight_units`)."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_UNIT = re.compile(
    r"layers\.(0|[1-9][0-9]{0,3})\.(attention\.qkv|attention\.out|feed_forward\.gate_up|feed_forward\.down)\Z"
)
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_KINDS = ("attention.qkv", "attention.out", "feed_forward.gate_up", "feed_forward.down")


def unit_order(unit: str) -> tuple[int, int]:
    """Sort key of a unit: its layer, then its place within the layer.

    >>> sorted(["layers.10.attention.qkv", "layers.9.feed_forward.down"], key=unit_order)[0]
    'layers.9.feed_forward.down'
    """
    layer, kind = unit.removeprefix("layers.").split(".", 1)
    return int(layer), _KINDS.index(kind)


def unit_kind(unit: str) -> str:
    """A unit's name without its layer: units of one kind have one shape in all layers."""
    return unit.removeprefix("layers.").split(".", 1)[1]


def is_unit(name: object) -> bool:
    """Whether `name` is that of a weight unit that may carry deltas."""
    return isinstance(name, str) and _UNIT.match(name) is not None


def is_expert_name(name: object) -> bool:
    """Whether `name` can be an expert's: it is also a folder's name, and what users type."""
    return isinstance(name, str) and _NAME.match(name) is not None


def _refuse(field: str, value: object, wanted: str) -> NoReturn:
    raise FormatError(f"card field '{field}' is {value!r:.80}, not {wanted}")


def _checked(wanted: str, accept: Callable[[Any], bool]) -> Callable[[Any, Any, Any], None]:
    def check(_: Any, attribute: Any, value: Any) -> None:
        if not accept(value):
            _refuse(attribute.name, value, wanted)

    return check


def _is_line(value: object) -> bool:
    # Printable, because a card by a stranger is shown in terminals.
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


_name = _checked(
    "up to 64 lower-case letters, digits, '.', '_' or '-', of which the first is a letter or digit",
    is_expert_name,
)
_line = _checked("one line of text", _is_line)
_command = _checked("one line of text", lambda value: value == "" or _is_line(value))
_count = _checked("a whole number from 0", _is_count)
_fingerprint = _checked(
    "64 hexadecimal digits", lambda value: isinstance(value, str) and bool(_DIGEST.match(value))
)
_digest = _checked(
    "64 hexadecimal digits",
    lambda value: isinstance(value, str) and bool(value == "" or _DIGEST.match(value)),
)
_rank = _checked(
    f"a whole number from 1 to {MAX_RANK}",
    lambda value: type(value) is int and 0 < value <= MAX_RANK,
)


def _tuple(values: Any) -> tuple[Any, ...]:
    return (
        tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)
    )


def _check_units(_: Any, attribute: Any, value: tuple[Any, ...]) -> None:
    if not value:
        _refuse(attribute.name, [], "a list of at least one weight unit")
    for unit in value:
        if not is_unit(unit):
            raise FormatError(
                f"card field 'units' names {unit!r:.80}, which is no weight unit that can carry deltas: "
                f"those are {', '.join(UNIT_FORMS)}"
            )
    if len(set(value)) < len(value):
        twice = next(unit for unit in value if value.count(unit) > 1)
        raise FormatError(f"card field 'units' names '{twice}' twice")


def _check_sources(_: Any, attribute: Any, value: tuple[Any, ...]) -> None:
    for source in value:
        if not isinstance(source, DataSource):
            _refuse(attribute.name, source, "a data source")


def _check_scores(_: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, Mapping):
        _refuse(attribute.name, value, "an object")
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        _refuse(attribute.name, value, "an object of finite numbers, texts, lists and objects")


@attrs.frozen(kw_only=True)
class DataSource:
    """A data set that an expert was trained on.

    Attributes:
        name: of the data set.
        licence: SPDX name where there is one.
        items, bytes: how much of it was used.
    """

    name: str = attrs.field(validator=_line)
    licence: str = attrs.field(validator=_line)
    items: int = attrs.field(validator=_count)
    bytes: int = attrs.field(validator=_count)


@attrs.frozen(kw_only=True)
class ExpertCard:
    """What an expert says of itself. Every field is checked; a wrong one raises FormatError.

    Attributes:
        name: what users type; also the name of the expert's folder within a set.
        domain: what it is for, for example `law`.
        summary: one line.
        base: fingerprint of the base model (`gemcore.experts.fingerprint`).
        base_name: what the base model is called, for messages.
        rank: rank of every delta.
        units: the weight units that carry deltas, in the order of `unit_order`.
        licence: of the expert itself, an SPDX name where there is one.
        data: what it was trained on.
        command: the command that made it; empty where that is not known.
        seed: of the training.
        steps: of the optimizer.
        scores: what it was measured at; `main` is an object with `name`, `base` and `expert`, the one
            figure that tables show.
        sha256: of `expert.safetensors`; empty until that is written.
    """

    name: str = attrs.field(validator=_name)
    domain: str = attrs.field(validator=_line)
    summary: str = attrs.field(validator=_line)
    base: str = attrs.field(validator=_fingerprint)
    base_name: str = attrs.field(validator=_line)
    rank: int = attrs.field(validator=_rank)
    units: tuple[str, ...] = attrs.field(converter=_tuple, validator=_check_units)
    licence: str = attrs.field(validator=_line)
    data: tuple[DataSource, ...] = attrs.field(
        default=(), converter=_tuple, validator=_check_sources
    )
    command: str = attrs.field(default="", validator=_command)
    seed: int = attrs.field(default=0, validator=_count)
    steps: int = attrs.field(default=0, validator=_count)
    scores: Mapping[str, Any] = attrs.field(factory=dict, validator=_check_scores)
    sha256: str = attrs.field(default="", validator=_digest)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(sorted(self.units, key=unit_order)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the format's version first."""
        values = attrs.asdict(self)
        lists = {"units": list(self.units), "data": list(values["data"])}
        return {"format_version": CARD_VERSION, **values, **lists}

    @classmethod
    def from_json(cls, values: Any, where: str = "the card") -> ExpertCard:
        """Read what `to_json` wrote.

        Args:
            values: parsed JSON.
            where: what messages call it, for example the file's path.

        Raises:
            FormatError: a field is missing, unknown or of an impossible value, or the card is of a
                newer format.
        """
        try:
            return _read_card(values)
        except FormatError as error:
            raise FormatError(f"{where} cannot be used: {error}") from None

    @property
    def main_score(self) -> str:
        """The one figure that tables show, in words; empty where there is none.

        `scores["main"]` is meant for it; without that it is the first number of `scores`.
        """
        main = self.scores.get("main")
        if isinstance(main, Mapping):
            name, base, expert = (main.get(key) for key in ("name", "base", "expert"))
            if _is_line(name) and _is_number(base) and _is_number(expert):
                change = f", {100 * (expert / base - 1):+.1f} %" if base else ""
                return f"{name} {expert:.4g} (base {base:.4g}{change})"
        numbers = [(name, value) for name, value in self.scores.items() if _is_number(value)]
        return f"{numbers[0][0]} {numbers[0][1]:.4g}" if numbers and _is_line(numbers[0][0]) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _read_card(values: Any) -> ExpertCard:
    if not isinstance(values, Mapping):
        raise FormatError(f"it must be a JSON object, not {type(values).__name__}")
    version = values.get("format_version")
    if type(version) is int and version > CARD_VERSION:
        raise FormatError(
            f"it has format version {version}, but this GEM reads up to {CARD_VERSION}: install a "
            "newer GEM"
        )
    if version != CARD_VERSION or type(version) is not int:
        _refuse("format_version", version, f"{CARD_VERSION}")
    names = [field.name for field in attrs.fields(ExpertCard)]
    fields = _fields(values, ["format_version", *names], "it")
    del fields["format_version"]
    if not isinstance(fields["units"], list):
        _refuse("units", fields["units"], "a list")
    if not isinstance(fields["data"], list):
        _refuse("data", fields["data"], "a list")
    if fields["sha256"] == "":
        _refuse("sha256", "", "64 hexadecimal digits")
    names = [field.name for field in attrs.fields(DataSource)]
    fields["data"] = [
        DataSource(**_fields(entry, names, "a data source")) for entry in fields["data"]
    ]
    return ExpertCard(**fields)


def _fields(values: Any, names: list[str], what: str) -> dict[str, Any]:
    """Exactly the fields `names`."""
    if not isinstance(values, Mapping):
        raise FormatError(f"{what} must be a JSON object, not {type(values).__name__}")
    missing = [name for name in names if name not in values]
    if missing:
        raise FormatError(f"{what} lacks the field{'s' * (len(missing) > 1)} {', '.join(missing)}")
    unknown = [name for name in values if name not in names]
    if unknown:
        raise FormatError(
            f"{what} has the unknown field {unknown[0]!r:.80}; fields are {', '.join(names)}"
        )
    return dict(values)
