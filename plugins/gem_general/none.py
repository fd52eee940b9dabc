"""The router that never routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable


@attrs.frozen
class GeneralPath:
    """Every token takes the general path; the model is compiled without any expert."""

    def prior(self, prompt: str) -> None:
        """Have no opinion on any prompt."""

    def layer_module(self, layer: int) -> None:
        """Route no layer."""

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Return at once: there is nothing to learn."""
