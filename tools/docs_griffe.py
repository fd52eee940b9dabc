"""Reads docstrings as GEM writes them: `.. versionadded::` and a section `Example:` with doctests."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DIRECTIVE = re.compile(r"^\.\. version(added|changed):: (\S+)$", flags=re.MULTILINE)
_WORDS = {"added": "New in", "changed": "Changed in"}


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is read into what griffe and Markdown know."""

    def on_instance(self, *, obj: griffe.Object, **context: Any) -> None:
        """Rewrite the docstring of a module, a class, a function or an attribute."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = _DIRECTIVE.sub(
                lambda found: f"*{_WORDS[found[1]]} {found[2]}.*", text
            )
