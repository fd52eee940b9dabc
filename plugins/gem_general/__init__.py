"""GEM's built-in router: none, the general path alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemcore.hookspecs import hookimpl
from gemcore.records import RouterRecord

if TYPE_CHECKING:
    from collections.abc import Iterator


@hookimpl
def gem_routers() -> Iterator[RouterRecord]:
    """Yield the router `none`."""
    yield RouterRecord(
        name="none",
        summary="no routing: every token takes the general path, the base model exactly",
        loader="gem_general.none:GeneralPath",
    )
