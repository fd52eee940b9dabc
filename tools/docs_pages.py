"""A hook of MkDocs: brings the documents that lie beside `docs/` into the site, with their links."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

BESIDE: Mapping[str, str] = MappingProxyType(
    {
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "contributing.md",
        "SECURITY.md": "security.md",
    }
)
"""Documents of the repository's root, where a reader of the repository looks for them."""

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the documents of the root as pages."""
    for name, page in BESIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_from_root(text)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **context: Any) -> str:
    """Lead links to documents of the root to their pages."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    inside = "../" * page.file.src_uri.count("/")
    for name, target in BESIDE.items():
        markdown = re.sub(rf"\]\({re.escape(up + name)}(?=[#)])", f"]({inside}{target}", markdown)
    # Sources are not part of the site: what names them stays, without the link.
    return re.sub(rf"\[([^\]]+)\]\({re.escape(up)}[^)\s]+\)", r"\1", markdown)


def _from_root(text: str) -> str:
    """Links of a document of the root, as they read from within `docs/`."""

    def moved(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if re.match(r"[a-z]+:", target):
            return link[0]
        name, hash_, anchor = target.partition("#")
        place = BESIDE.get(name) or (
            name.removeprefix("docs/") if name.startswith("docs/") else f"../{name}"
        )
        return f"{before}{place}{hash_}{anchor}{after}"

    return _LINK.sub(moved, text)
