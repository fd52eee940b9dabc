"""GEM's own experts, and the commands that look after sets of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemcore.hookspecs import hookimpl
from gemcore.records import ExpertSetRecord

if TYPE_CHECKING:
    from collections.abc import Iterator


@hookimpl
def gem_experts() -> Iterator[ExpertSetRecord]:
    """Yield the set of experts that comes with GEM."""
    yield ExpertSetRecord(
        name="smollm2-135m",
        summary="eight experts, one a domain, for SmolLM2-135M-Instruct",
        base_name="smollm2-135m",
        loader="gem_experts.shipped:smollm2_135m",
    )
