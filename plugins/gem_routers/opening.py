"""What the routers share: the layer where choosing begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemcore.experts.card import unit_order

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet


def first_layer(experts: ExpertSet) -> int:
    """The first layer with deltas: what is decided there holds for all later ones."""
    return unit_order(experts.units[0])[0]
