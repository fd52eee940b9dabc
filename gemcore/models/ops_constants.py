"""Numbers that the ops, the kernels and the runtime share; without torch, so that a bundle opens fast."""

from __future__ import annotations

KEY_BLOCK = 16
"""Positions that lie side by side in the key cache; capacities are multiples of it."""

PLACEMENT_FIELDS = 4
"""RoPE position, cache slot, end of the shared prefix, first slot of the own sequence."""
