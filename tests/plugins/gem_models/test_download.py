"""Downloads against a loopback server: going on after a break, and trusting only the digest."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gem_models.download import fetch
from gem_models.pip_settings import PipSettings
from gemcore.errors import GemError

BODY = bytes(range(256)) * 4000
SETTINGS = PipSettings()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "file.whl"


def part_of(target):
    return target.with_name(target.name + ".part")


def test_progress_counts_to_the_size(server, target, pinned):
    server.files["/f"] = BODY
    seen = []
    fetch(
        server.url + "/f",
        target,
        pinned("f", BODY),
        SETTINGS,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert target.read_bytes() == BODY
    assert not part_of(target).exists()
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)


def test_the_second_command_goes_on_where_the_first_stopped(server, target, pinned):
    server.files["/f"] = BODY
    server.drops = [300_000]
    with pytest.raises(GemError, match=r"stopped after (\d+) of 1024000 bytes .*goes on from"):
        fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS, attempts=1)
    got = part_of(target).stat().st_size
    assert 0 < got <= 300_000
    assert not target.exists()
    seen = []
    fetch(
        server.url + "/f",
        target,
        pinned("f", BODY),
        SETTINGS,
        attempts=1,
        progress=lambda done, total: seen.append(done),
    )
    assert server.asked == [("/f", None), ("/f", f"bytes={got}-")]
    assert seen[0] == got
    assert target.read_bytes() == BODY


def test_one_command_tries_again(server, target, pinned):
    server.files["/f"] = BODY
    server.drops = [100_000, 400_000]
    fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS, pause=0)
    assert len(server.asked) == 3
    assert target.read_bytes() == BODY


def test_ctrl_c_keeps_what_came(server, target, pinned):
    server.files["/f"] = BODY

    def interrupt(done, total):
        if done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS, progress=interrupt)
    assert part_of(target).stat().st_size > 200_000
    assert not target.exists()
    fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS)
    assert server.asked[-1][1] is not None
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_starts_again(server, target, pinned):
    server.files["/f"] = BODY
    server.ranges = False
    part_of(target).write_bytes(BODY[:1000])
    fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS)
    assert target.read_bytes() == BODY


def test_a_finished_part_needs_no_server(target, pinned):
    part_of(target).write_bytes(BODY)
    fetch("http://127.0.0.1:9/none", target, pinned("f", BODY), SETTINGS)
    assert target.read_bytes() == BODY


def test_too_long_a_part_is_thrown_away(server, target, pinned):
    server.files["/f"] = BODY
    part_of(target).write_bytes(BODY + b"more")
    fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS)
    assert server.asked == [("/f", None)]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("served", [b"x" * len(BODY), BODY + b"more"])
def test_another_file_is_deleted_and_both_digests_are_said(server, target, pinned, served):
    server.files["/f"] = served
    wanted = pinned("f", BODY)
    with pytest.raises(GemError, match="is not the expected file") as caught:
        fetch(server.url + "/f", target, wanted, SETTINGS)
    cut = pinned("f", served[: len(BODY) + 1])
    assert wanted.sha256 in str(caught.value)
    assert cut.sha256 in str(caught.value)
    assert list(target.parent.glob("file.whl*")) == []


def test_a_bad_beginning_is_found(server, target, pinned):
    server.files["/f"] = BODY
    part_of(target).write_bytes(b"bad")
    with pytest.raises(GemError, match="is not the expected file"):
        fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS)
    fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_a_sentence_without_secrets(server, target, pinned, status):
    server.status = status
    url = server.url.replace("http://", "http://user:secret@") + "/f?token=hidden"
    with pytest.raises(GemError, match=rf"/f answered with status {status}") as caught:
        fetch(url, target, pinned("f", BODY), SETTINGS)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_no_server(target, pinned):
    with pytest.raises(
        GemError, match=r"stopped after 0 of 1024000 bytes \(.*refused.*\)"
    ) as caught:
        fetch("http://127.0.0.1:9/f", target, pinned("f", BODY), SETTINGS, pause=0)
    assert len(str(caught.value)) < 300


def test_a_full_disk_is_a_sentence(server, target, pinned, monkeypatch):
    server.files["/f"] = BODY

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

        def write(self, piece):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: Full())
    with pytest.raises(GemError, match="the disk is full; free some space"):
        fetch(server.url + "/f", target, pinned("f", BODY), SETTINGS)
