"""The documentation as a site: complete, and without anything that is loaded from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADED = re.compile(
    r"<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"' >]+)"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|icon|preload)[\"']?[^>]*"
    r"\bhref=[\"']?((?:https?:)?//[^\"' >]+)"
    r"|url\([\"']?((?:https?:)?//[^\"')]+)"
)


def loaded(text: str) -> list[str]:
    """Addresses on other machines that a page or a style sheet loads."""
    return ["".join(found) for found in LOADED.findall(text)]


def test_what_a_page_loads_is_found() -> None:
    page = """<script async src="https://cdn.example/a.js"></script><img src=//b.example/c.png>
    <link rel="stylesheet" href="https://fonts.example/css"><a href="https://example.org">link</a>
    <style>@font-face{src:url('https://fonts.example/f.woff')}</style><script src="../own.js">"""
    assert loaded(page) == [
        "https://cdn.example/a.js",
        "//b.example/c.png",
        "https://fonts.example/css",
        "https://fonts.example/f.woff",
    ]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    pytest.importorskip("mkdocs", reason="pip install 'gemcore[docs]' brings MkDocs")
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "tools" / "docs_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "[security](../SECURITY.md)", "[security](security.md)"),
        ("index.md", "[s](../SECURITY.md#the-network)", "[s](security.md#the-network)"),
        ("tutorial/x.md", "[security](../../SECURITY.md)", "[security](../security.md)"),
        ("tutorial/x.md", "[page](../models.md)", "[page](../models.md)"),
        ("index.md", "[`hooks.py`](../gemcore/hookspecs.py) is", "`hooks.py` is"),
        ("index.md", "[web](https://example.org/../x)", "[web](https://example.org/../x)"),
    ],
)
def test_links_out_of_docs_lead_to_pages_or_nowhere(pages, page, link, expected) -> None:
    place = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert pages.on_page_markdown(link, page=place) == expected


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[promise](docs/api-stability.md)", "[promise](api-stability.md)"),
        ("[a](docs/architecture.md#x)", "[a](architecture.md#x)"),
        ("[security](SECURITY.md)", "[security](security.md)"),
        ("[licence](LICENSE)", "[licence](../LICENSE)"),
        ("[web](https://example.org)", "[web](https://example.org)"),
    ],
)
def test_links_of_documents_beside_docs_are_read_from_within(pages, link, expected) -> None:
    assert pages._from_root(link) == expected


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'gemcore[docs]' brings MkDocs")
    # Not with --quiet, which would hide warnings from --strict, too.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 40
    for path in [*pages, *tmp_path.rglob("*.css")]:
        assert loaded(path.read_text(encoding="utf-8")) == [], path.relative_to(tmp_path)
    # Reference pages are made of docstrings, and not empty.
    reference = (tmp_path / "reference" / "protocols.html").read_text(encoding="utf-8")
    for name in ("Router", "Quantizer", "Metric", "Target", "ModelSource", "BenchmarkSource"):
        assert f'id="gemcore.protocols.{name}"' in reference
