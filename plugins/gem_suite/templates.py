"""Prompt templates: text with names in braces, filled in once and never evaluated.

A template may come from a third party's file, so there is no more to it than that: no attributes,
no calls, no conditions, and what is filled in is not looked at again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gemcore.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELD = re.compile(r"\{\{|\}\}|\{(?P<name>[a-z_]+)\}|[{}]")


def field_names(template: str) -> frozenset[str]:
    """The names that a template uses.

    >>> sorted(field_names("{question} {{literally}} {choice}"))
    ['choice', 'question']

    Raises:
        ValueError: a brace stands alone.
    """
    names = set()
    for match in _FIELD.finditer(template):
        if match["name"]:
            names.add(match["name"])
        elif match[0] not in ("{{", "}}"):
            raise ValueError(
                f"the template {template!r} has a lone {match[0]!r}: write names as {{name}}, "
                f"and a brace itself twice"
            )
    return frozenset(names)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in the place of names; braces inside values stay as they are.

    >>> fill("Q: {question} {{a}}", {"question": "{context}?"})
    'Q: {context}? {a}'

    Raises:
        UsageError: a name has no value.
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0][0]
        if name not in values:
            raise unknown_name("template field", name, values)
        return values[name]

    return _FIELD.sub(replace, template)
