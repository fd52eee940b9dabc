"""Downloading one file of known size and SHA-256, so that an interrupted download goes on."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from gemcore.cache import Progress, explained
from gemcore.errors import GemError

if TYPE_CHECKING:
    from pathlib import Path

    from gem_models.pip_settings import PipSettings

_CHUNK = 1 << 18
_TIMEOUT = (15, 60)


@attrs.frozen(kw_only=True)
class PinnedFile:
    """A file that is known before it is fetched.

    Attributes:
        name: file name.
        size: bytes.
        sha256: in hexadecimal.
    """

    name: str
    size: int
    sha256: str


class _InterruptedError(Exception):
    """The connection failed or ended early; what came so far is in the part file."""


def fetch(
    url: str,
    target: Path,
    pinned: PinnedFile,
    settings: PipSettings,
    *,
    progress: Progress | None = None,
    attempts: int = 3,
    pause: float = 1.0,
) -> None:
    """Download `url` to `target` through `<target>.part`, going on from what that already holds.

    The part file is kept when the download is interrupted, by a lost connection or by Ctrl-C, and
    the next call asks only for the rest.

    Args:
        url: http or https.
        target: appears only when size and SHA-256 are right.
        pinned: what must arrive.
        settings: certificates and proxies.
        progress: called with bytes done and bytes in all.
        attempts: how often to try before giving up.
        pause: seconds before the second attempt; each later pause is twice as long.

    Raises:
        GemError: the server cannot be reached or refuses, the connection is lost too often, the
            disk is full, or another file arrived than the pinned one.
    """
    part = target.with_name(f"{target.name}.part")
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            digest = _attempt(url, part, pinned, settings, progress)
            break
        except _InterruptedError as error:
            if attempt + 1 == attempts:
                got = part.stat().st_size if part.exists() else 0
                raise GemError(
                    f"the download of {pinned.name} stopped after {got} of {pinned.size} bytes "
                    f"({error}); the same command goes on from there"
                ) from None
    if digest != pinned.sha256:
        with suppress(OSError):
            part.unlink()
        raise GemError(
            f"{pinned.name} from {_plain(url)} is not the expected file: its SHA-256 is {digest}, "
            f"expected was {pinned.sha256}; it was deleted, and nothing was kept"
        )
    with explained(target):
        part.replace(target)


def _attempt(
    url: str, part: Path, pinned: PinnedFile, settings: PipSettings, progress: Progress | None
) -> str:
    """Bring the part file to its full size and return its SHA-256."""
    digest, done = _digest_so_far(part, pinned.size)
    if done == pinned.size:
        return digest.hexdigest()
    import requests

    headers = {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        with requests.get(
            url,
            headers=headers,
            timeout=_TIMEOUT,
            verify=settings.verification(url),
            cert=settings.client_certificate,
            proxies=settings.proxies(),
            stream=True,
        ) as answer:
            start = _start_of(answer.status_code, answer.headers.get("Content-Range"), done)
            if start is None:
                raise GemError(
                    f"{_plain(url)} answered with status {answer.status_code} {answer.reason}"
                )
            if start != done:
                digest, done = hashlib.sha256(), 0
            with explained(part):
                file = part.open("ab" if done else "wb")
            with file:
                if progress:
                    progress(done, pinned.size)
                for piece in answer.iter_content(_CHUNK):
                    # More bytes than expected are not worth the disk; the digest will differ.
                    kept = piece[: pinned.size + 1 - done]
                    with explained(part):
                        file.write(kept)
                    digest.update(kept)
                    done += len(kept)
                    if progress:
                        progress(min(done, pinned.size), pinned.size)
                    if done > pinned.size:
                        break
    except requests.exceptions.SSLError as error:
        raise GemError(
            f"cannot trust {_plain(url)}: {_reason(error)}; if a proxy with its own certificates "
            "is in the way, tell pip: pip config set global.cert FILE"
        ) from None
    except requests.RequestException as error:
        raise _InterruptedError(_reason(error)) from None
    if done < pinned.size:
        raise _InterruptedError("the connection was closed early")
    return digest.hexdigest()


def _digest_so_far(part: Path, size: int) -> tuple[hashlib._Hash, int]:
    """Hash what an earlier download left; too long a file is no beginning of the right one."""
    digest, done = hashlib.sha256(), 0
    if not part.exists() or part.stat().st_size > size:
        return digest, 0
    with explained(part), part.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
            done += len(piece)
    return digest, done


def _start_of(status: int, content_range: str | None, asked: int) -> int | None:
    """Where the body of an answer begins: at `asked`, at 0, or None where there is no file.

    >>> _start_of(206, "bytes 5-9/10", 5), _start_of(200, None, 5), _start_of(404, None, 5)
    (5, 0, None)
    """
    if status == 200:
        return 0
    if status == 206 and (content_range or "").startswith(f"bytes {asked}-"):
        return asked
    return None


def _reason(error: Exception) -> str:
    """The innermost cause, which says it in the fewest words."""
    cause: BaseException = error
    while cause.args and isinstance(cause.args[-1], BaseException):
        cause = cause.args[-1]
    inner = getattr(cause, "reason", None)
    return str(inner or cause) or type(cause).__name__


def _plain(url: str) -> str:
    """The URL without credentials, query and fragment.

    >>> _plain("https://user:secret@example.org/a.whl?token=1")
    'https://example.org/a.whl'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
