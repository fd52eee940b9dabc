r"""Plugin options: read from words (`scar:max_experts=2,top_p=0.9`) or a table, checked by schema.

The grammar of words is `name[:option=value[,option=value]…]`. A value that holds a comma, a
quotation mark or a backslash, or that has spaces at its ends, is put in double quotes, inside which
`\"` and `\\` stand for the two marks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

from gemcore.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemcore.records import Option

_PAIR = re.compile(
    r"""\s*(?P<key>[^=,"]*?)\s*
        (?:(?P<equals>=)\s*(?:"(?P<quoted>(?:[^"\\]|\\["\\])*)"|(?P<bare>[^,"]*?)))?\s*
        (?P<end>,|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}\Z")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z|[+-]?(inf|nan)\Z")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True}
_TRUTH |= {"false": False, "no": False, "off": False, "0": False}
_NEEDS_QUOTES = re.compile(r'[,"\\]|^\s|\s\Z|^\Z', re.DOTALL)


@attrs.frozen
class PluginChoice:
    """A plugin as the user asked for it: a name and options that nobody has checked yet.

    Attributes:
        name: a record's name, or `distribution/name`.
        options: what was given; text where it came from words, typed values from a table.
    """

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return format_words(self)


def parse_words(text: str) -> PluginChoice:
    """Read `name:option=value,…`.

    >>> parse_words('scar:max_experts=2,note="a, b"')
    PluginChoice(name='scar', options={'max_experts': '2', 'note': 'a, b'})

    Raises:
        UsageError: when the name is missing, an option has no `=`, comes twice, or a quotation mark
            is left open.
    """
    name, colon, rest = text.partition(":")
    name = name.strip()
    if not name:
        raise UsageError(f"'{text}' has no plugin name: write NAME or NAME:option=value")
    options: dict[str, str] = {}
    position, end = 0, "," if colon and rest.strip() else ""
    while end == ",":
        pair = _PAIR.match(rest, position)
        if pair is None:
            raise UsageError(
                f"'{text}': cannot read '{rest[position:]}': put a value that holds ',' or '\"' in "
                'double quotes, and write \\" for a quotation mark inside them'
            )
        key = pair["key"]
        if not key or pair["equals"] is None:
            raise UsageError(
                f"'{text}': '{pair[0].rstrip(',').strip()}' is not of the form option=value"
            )
        if key in options:
            raise UsageError(f"'{text}' gives option '{key}' twice")
        quoted = pair["quoted"]
        options[key] = pair["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position, end = pair.end(), pair["end"]
    return PluginChoice(name, options)


def parse_table(table: Mapping[str, Any], owner: str) -> PluginChoice:
    """Read `{name = "scar", max_experts = 2}`; messages call the table `owner`.

    Raises:
        UsageError: when `name` is missing or is not text.
    """
    options = dict(table)
    name = options.pop("name", None)
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f'{owner} is a table without a name: write {{name = "…", option = value}}')
    return PluginChoice(name.strip(), options)


def format_words(choice: PluginChoice) -> str:
    """Write a choice as `parse_words` reads it.

    >>> format_words(PluginChoice("scar", {"top_p": 0.9, "learned": True}))
    'scar:top_p=0.9,learned=true'
    """
    pairs = ",".join(f"{key}={_format_value(value)}" for key, value in choice.options.items())
    return f"{choice.name}:{pairs}" if pairs else choice.name


def resolve_options(
    schema: Sequence[Option], given: Mapping[str, Any], owner: str
) -> dict[str, Any]:
    """Check `given` against `schema` and fill in the defaults; text becomes the option's type.

    Args:
        schema: the options that exist.
        given: text or typed values by name.
        owner: what the options belong to, for messages: "router 'scar'".

    Returns:
        A value for every option of the schema, None where there is neither a value nor a default.

    Raises:
        UsageError: for an unknown option, a wrong type, a value out of bounds or none of the choices.
    """
    known = {option.name: option for option in schema}
    for name in given:
        if not known:
            raise UsageError(f"{owner} takes no options, but '{name}' is given")
        if name not in known:
            raise UsageError(f"{owner}: {unknown_name('option', name, known)}")
    return {
        name: _check(option, given[name], owner) if name in given else option.default
        for name, option in known.items()
    }


def parse_value(option: Option, text: str) -> Any:
    """Convert `text` to the option's type; None where it does not stand for such a value."""
    if option.type is str:
        return text
    word = text.strip().lower()
    if option.type is bool:
        return _TRUTH.get(word)
    if option.type is int:
        return int(word) if _WHOLE.match(word) else None
    return float(word) if _NUMBER.match(word) else None


def _check(option: Option, value: Any, owner: str) -> Any:
    parsed = value
    if isinstance(value, str):
        parsed = parse_value(option, value)
        if parsed is None:
            raise UsageError(
                f"{owner}: option '{option.name}' must be {option.type_name}, not '{value}'"
            )
    if problem := option.objection(parsed):
        raise UsageError(
            f"{owner}: option '{option.name}' is {_format_value(value)}, which {problem}"
        )
    return float(parsed) if option.type is float else parsed


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if isinstance(value, str) and _NEEDS_QUOTES.search(text):
        return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
    return text
