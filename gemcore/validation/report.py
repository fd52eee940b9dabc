"""What was found out about a plugin, one finding a check."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Literal

import attrs

Status = Literal["ok", "warning", "skipped", "failed"]


@attrs.frozen(kw_only=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was looked at, in a few words.
        status: `failed` makes the plugin unsound, `warning` does not; `skipped` was not looked at.
        detail: what was seen, or what is wrong and what to do; a sentence.
    """

    check: str
    status: Status
    detail: str = ""


def lines(finding: Finding, width: int = 110) -> Iterator[str]:
    """A finding as text: one line where all is well, its detail below where it is not."""
    first = f"{finding.status:<8} {finding.check}"
    if finding.status == "ok" and len(first) + len(finding.detail) + 2 <= width:
        yield f"{first}: {finding.detail}" if finding.detail else first
        return
    yield first
    indent = " " * 9
    yield from textwrap.wrap(finding.detail, width, initial_indent=indent, subsequent_indent=indent)


def count_failures(findings: Iterable[Finding]) -> int:
    """How many checks failed."""
    return sum(finding.status == "failed" for finding in findings)
