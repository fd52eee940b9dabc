"""The Hub, without the Hub: huggingface_hub's own errors, and its cache's layout."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gem_models.hub import HubName, HubSource, parse_name
from gemcore.errors import GemError, UsageError


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("a/b", HubName("a/b", None)),
        ("A-1/b.2_c", HubName("A-1/b.2_c", None)),
        ("a/b/c.gguf", HubName("a/b", "c.gguf")),
        ("a/b/c/d.gguf", HubName("a/b", "c/d.gguf")),
        ("a", None),
        ("a/b/c", None),
        ("a/b.gguf", None),
        ("./a/b", None),
        ("/a/b", None),
        ("../b", None),
        ("a/../b.gguf", None),
        ("a/b/../c.gguf", None),
        ("a//b", None),
        ("a/b\n", None),
        ("", None),
    ],
)
def test_names(name, parsed):
    assert parse_name(name) == parsed
    assert HubSource().owns(name) == (parsed is not None)


@pytest.fixture
def snapshot(monkeypatch):
    """Replace the download by one that writes a file, and remember how it was called."""
    import huggingface_hub

    calls = []

    def download(repository, *, cache_dir, allow_patterns, tqdm_class):
        calls.append((repository, allow_patterns))
        folder = Path(cache_dir) / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "q4.gguf").write_bytes(b"12345")
        # As huggingface_hub does: a bar of bytes whose total grows, and a bar of files.
        bar = tqdm_class(total=0, initial=0, unit="B", unit_scale=True, name="x", desc="y")
        bar.total = (bar.total or 0) + 10
        bar.refresh()
        bar.update(4)
        bar.update(6)
        files = tqdm_class(range(2), desc="Fetching", total=2)
        assert list(files) == [0, 1]
        bar.set_description("done")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr("gemcore.formats.gguf.load_gguf", lambda path, name: (path, name))
    monkeypatch.setattr("gemcore.formats.huggingface.load_folder", lambda path, name: (path, name))
    return calls


def test_a_model_is_fetched_once(snapshot, tmp_path):
    source = HubSource()
    seen = []
    path, name = source.load("a/b/q4.gguf", lambda *step: seen.append(step))
    assert name == "a/b/q4.gguf"
    assert path.read_bytes() == b"12345"
    assert seen == [(4, 10), (10, 10)]
    assert source.load("a/b/q4.gguf") == (path, name)
    assert snapshot == [("a/b", ["q4.gguf"])]
    (cached,) = source.cached()
    assert (cached.name, cached.path, cached.bytes, cached.source) == (name, path, 5, "hub")
    path.unlink()
    assert source.cached() == []


def test_only_safe_files_of_a_folder_are_fetched(snapshot):
    path, _ = HubSource().load("a/b")
    assert path.is_dir()
    ((_, patterns),) = snapshot
    assert "*.safetensors" in patterns
    assert not any(
        pattern.endswith((".bin", ".py", "*"))
        for pattern in patterns
        if pattern != "chat_template*"
    )


def test_a_missing_file_of_a_model(snapshot):
    with pytest.raises(UsageError, match=r"a/b has no file other.gguf"):
        HubSource().load("a/b/other.gguf")
    assert HubSource().cached() == []


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a/b", "path": "../../etc"}', '{"name": 1}'])
def test_a_damaged_note_is_no_model(tmp_path, text):
    folder = tmp_path / "cache" / "hub"
    folder.mkdir(parents=True)
    (folder / "a--b.gem.json").write_text(text)
    assert HubSource().cached() == []


def failures():
    import httpx2
    from huggingface_hub import errors

    answer = httpx2.Response(404, request=httpx2.Request("GET", "https://example.org"))
    return [
        (errors.RepositoryNotFoundError("no", response=answer), UsageError, "no model a/b on"),
        (errors.GatedRepoError("no", response=answer), GemError, "asks for consent first"),
        (errors.LocalEntryNotFoundError("long\nstory"), GemError, "reached .*(no connection)"),
        (errors.OfflineModeIsEnabled("off"), GemError, "cannot be reached"),
        (errors.HfHubHTTPError("500 oops\nlong", response=answer), GemError, r"\(500 oops\)"),
        (ConnectionError("refused"), GemError, r"cannot be reached .*\(refused\)"),
        (RuntimeError(""), GemError, r"\(RuntimeError\)"),
        (OSError(errno.ENOSPC, "No space", "/x"), GemError, "the disk is full"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_every_failure_is_one_sentence(monkeypatch, number):
    import huggingface_hub

    error, kind, reason = failures()[number]

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=reason) as caught:
        HubSource().load("a/b")
    assert "\n" not in str(caught.value)


def test_no_network_at_all(monkeypatch):
    """The library itself, with nothing to talk to."""
    import huggingface_hub

    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *args, **kwargs: original(*args, endpoint="http://127.0.0.1:9", **kwargs),
    )
    with pytest.raises(GemError, match="the Hugging Face Hub cannot be reached"):
        HubSource().load("a/b")
