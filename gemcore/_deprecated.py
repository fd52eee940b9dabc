"""How GEM says that something will go: since when, until when, and what to use instead.

All that GEM itself has deprecated stands in `OWN`, and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import datetime


class GemDeprecationWarning(FutureWarning):
    """Something in use will be removed; a FutureWarning, so that Python shows it by default."""


@attrs.frozen(kw_only=True)
class Deprecation:
    """When something was deprecated, when it goes, and what replaces it.

    Attributes:
        since: the version of GEM or of the plugin that deprecated it.
        removal: the day from which it may be gone.
        instead: what to use, as a phrase.
    """

    since: str
    removal: datetime.date
    instead: str

    def warning(self, what: str) -> GemDeprecationWarning:
        """Make the warning for `what`, as `warnings.warn` and pluggy's `warn_on_impl` take it.

        >>> from datetime import date
        >>> gone = Deprecation(since="0.2", removal=date(2027, 3, 1), instead="gem_routers")
        >>> print(gone.warning("hook gem_gates"))
        hook gem_gates is deprecated since 0.2 and goes on 2027-03-01: use gem_routers
        """
        return GemDeprecationWarning(
            f"{what} is deprecated since {self.since} and goes on {self.removal.isoformat()}: "
            f"use {self.instead}"
        )


OWN: Mapping[str, Deprecation] = MappingProxyType({})
"""What of GEM's public interface is deprecated, by its full name; nothing at present."""


def warn_deprecated(
    name: str, table: Mapping[str, Deprecation] = OWN, *, stacklevel: int = 2
) -> None:
    """Warn the caller of something of GEM that is deprecated.

    Args:
        name: its full name, a key of `table`.
        table: what is deprecated.
        stacklevel: as `warnings.warn` counts it; 2 is the caller of the function that calls this one.
    """
    warnings.warn(table[name].warning(name), stacklevel=stacklevel + 1)
