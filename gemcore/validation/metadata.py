"""What a plugin's metadata say, judged without running any of its code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gemcore.discovery import BUILT_IN, PLUGIN_GROUP, normalize
from gemcore.validation.report import Finding

if TYPE_CHECKING:
    from gemcore.validation.subject import Subject

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*([^;]*)(;.*)?")


def metadata_findings(subject: Subject) -> Iterator[Finding]:
    """One finding for each thing that users and package indexes look for."""
    about = subject.distribution.metadata
    names = ", ".join(entry.name for entry in subject.entries)
    yield Finding(
        check="entry point",
        status="ok" if subject.entries else "failed",
        detail=names or f"it has no entry point in the group {PLUGIN_GROUP}: GEM would not find it",
    )
    yield Finding(
        check="description",
        status="ok" if _given(about["Summary"]) else "failed",
        detail=about["Summary"] or "its metadata have no description: say in one line what it is",
    )
    licence = about["License-Expression"] or about["License"]
    yield Finding(
        check="licence",
        status="ok" if _given(licence) else "failed",
        detail=licence or "its metadata name no licence: without one nobody may use it",
    )
    told = _given(_long_description(subject))
    yield Finding(
        check="long description",
        status="ok" if told else "warning",
        detail="" if told else "its metadata have no long description: name its README",
    )
    yield Finding(
        check="Python version",
        status="ok" if about["Requires-Python"] else "warning",
        detail=about["Requires-Python"] or "python_requires is not set: GEM needs 3.11 or newer",
    )
    yield _requirement(subject.distribution.requires or [])


def _requirement(requirements: list[str]) -> Finding:
    """Whether it says which GEM it needs."""
    check = "requires GEM"
    for text in requirements:
        match = _REQUIREMENT.match(text)
        if match and normalize(match[1]) == BUILT_IN:
            if ">" in match[2] or "=" in match[2] or "~" in match[2]:
                return Finding(check=check, status="ok", detail=text.strip())
            return Finding(
                check=check,
                status="warning",
                detail=f"it requires '{text.strip()}' without saying from which version on",
            )
    return Finding(
        check=check,
        status="failed",
        detail=f"it does not require {BUILT_IN}: pip would install it where it cannot work",
    )


def _long_description(subject: Subject) -> str:
    """What comes after the fields of the metadata file, or in their field `Description`."""
    text = subject.distribution.read_text("METADATA") or ""
    return text.partition("\n\n")[2] or subject.distribution.metadata["Description"] or ""


def _given(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and text.strip() != "UNKNOWN"
