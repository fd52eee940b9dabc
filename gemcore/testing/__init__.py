"""Helpers for the tests of GEM and of its plugins."""

from __future__ import annotations

from gemcore.testing.tiny import tiny_checkpoint, tiny_config

__all__ = ["tiny_checkpoint", "tiny_config"]
