"""Which data may make weights that ship: judged by the licence that a benchmark's SOURCE.json states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import attrs

CHOICES = ("permissive", "all")
"""Values of `--licences`."""

# What forbids comes first: "CC BY-NC 4.0" is no "CC BY", and one doubtful half spoils the other.
_FORBIDS = re.compile(
    r"non-?commercial|no[ -]derivatives|share-?alike|\b(nc|nd|sa|gpl|agpl|lgpl)\b|none stated|"
    r"not stated|unknown|mixed|academic|research (use|only|release)|proprietary",
    re.IGNORECASE,
)
_ALLOWS = re.compile(
    r"\b(mit|apache|bsd|isc|afl|cc[ -]by|cc0|cc[ -]zero|public domain|unlicense)\b|free for any purpose",
    re.IGNORECASE,
)


@attrs.frozen(kw_only=True)
class ItemRule:
    """What is known of a benchmark beyond the one line of its SOURCE.json.

    Attributes:
        licence: that of the items taken.
        only: parts (`subdomain`) that are taken; empty takes all but `without`.
        without: parts that are left out.
    """

    licence: str
    only: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    def takes(self, part: str) -> bool:
        """Whether items of this part are taken."""
        return part not in self.without and (not self.only or part in self.only)


ITEM_RULES: Mapping[str, ItemRule] = MappingProxyType(
    {
        # Its items say which source they are from, and of the sources one is permissive.
        "coqa": ItemRule(licence="Apache-2.0 (the CNN part)", only=frozenset({"cnn"})),
        # Of all task pages, this one's names no licence.
        "legalbench": ItemRule(
            licence="CC BY 4.0 (without abercrombie)", without=frozenset({"abercrombie"})
        ),
        # "see LexGLUE" says nothing alone; CaseHOLD's line has what LexGLUE states.
        "ledgar": ItemRule(licence="CC BY 4.0 (as LexGLUE states)"),
    }
)


def is_permissive(licence: str) -> bool:
    """Whether a licence permits to ship what was made of the data, in any product, unchanged or not.

    MIT, Apache, BSD, ISC, AFL, CC BY, CC0, public domain, and "free for any purpose". Anything
    non-commercial, without derivatives, share-alike or not stated is not, nor is a line that names
    such terms beside permissive ones.

    >>> is_permissive("MIT"), is_permissive("CC BY 4.0"), is_permissive("CC BY-SA 4.0")
    (True, True, False)
    """
    # Hyphens join the words of Creative Commons names, and word borders are wanted between them.
    words = licence.replace("_", " ")
    return bool(_ALLOWS.search(words)) and not _FORBIDS.search(words)


def judged(benchmark: str, licence: str) -> tuple[bool, ItemRule]:
    """Whether a benchmark's items may be used for what ships, and which of them.

    Args:
        benchmark: its name.
        licence: as its SOURCE.json states it.
    """
    rule = ITEM_RULES.get(benchmark) or ItemRule(licence=licence)
    return is_permissive(rule.licence), rule
