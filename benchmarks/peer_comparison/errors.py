"""What can go wrong in a comparison."""

from __future__ import annotations


class ComparisonError(Exception):
    """One sentence for the user: what was wrong and what to do."""


class SystemFailedError(ComparisonError):
    """A system cannot be measured, now or at all; the others can."""
