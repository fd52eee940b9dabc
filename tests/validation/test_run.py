"""Plugins with one thing wrong each: what is wrong is found, and said with the plugin's name."""

import pytest

from gemcore.errors import GemError, UsageError
from gemcore.validation import run
from gemcore.validation.run import validate_plugin


def look_at(project, **settings):
    """All findings, and those that failed, by what was checked."""
    found = []
    title = validate_plugin(str(project), found.append, quick=True, **settings)
    assert title == f"{project.name} 1.0"
    return found, {finding.check: finding.detail for finding in found if finding.status == "failed"}


@pytest.mark.slow
def test_a_sound_plugin_passes(project):
    found, failed = look_at(project("sound"))
    assert failed == {}
    checks = {finding.check: finding for finding in found}
    assert "router 'sound'" in checks["registers 'gem_sound'"].detail
    assert checks["router 'sound': modules export"].status == "ok"
    assert checks["router 'sound': compiled it routes as in torch"].status == "skipped"


def test_one_that_hangs_is_stopped_and_named(project):
    _, failed = look_at(project("hangs", "import time; time.sleep(600)"), timeout=3)
    assert list(failed) == ["registers 'gem_hangs'"]
    assert "gem-hangs 1.0: it does not finish within 3 s" in failed["registers 'gem_hangs'"]


def test_one_that_stops_signals_hangs_no_less(project):
    before = """
        import signal, time
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass
    """
    _, failed = look_at(project("deaf", before), timeout=3)
    assert "it seems to hang" in failed["registers 'gem_deaf'"]


def test_one_that_ends_the_process_is_named(project):
    _, failed = look_at(project("leaves", "import os; os._exit(7)"))
    assert (
        "gem-leaves 1.0: its code ended the process with exit code 7"
        in (failed["registers 'gem_leaves'"])
    )


@pytest.mark.slow
def test_one_that_prints_is_caught(project):
    before = "import sys; print('hello'); print('again', file=sys.stderr)"
    _, failed = look_at(project("prints", before))
    assert list(failed) == ["prints nothing when it is imported"]
    assert "it prints 'hello'" in failed["prints nothing when it is imported"]


@pytest.mark.slow
def test_one_that_imports_torch_is_caught(project):
    _, failed = look_at(project("heavy", "import torch"))
    assert "it imports torch when it registers" in failed["registers 'gem_heavy'"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "changed"),
    [
        ("patches", "torch.nn.Linear.forward = lambda self, x: x", "torch.nn.Linear.forward"),
        ("adds", "torch.Tensor.magic = lambda self: 1", "torch.Tensor.magic"),
        ("takes", "import gemcore.build; gemcore.build.bundle_key = None", "bundle_key"),
    ],
)
def test_one_that_patches_torch_or_gem_is_caught(project, name, code, changed):
    _, failed = look_at(project(name, code=code))
    assert next(iter(failed)) == "leaves torch, GEM and Python as they are"
    assert changed in failed["leaves torch, GEM and Python as they are"]


@pytest.mark.slow
def test_wrong_shapes_are_caught(project):
    code = """
        class Wide(torch.nn.Module):
            def forward(self, hidden, prior):
                return torch.zeros(len(hidden), 7)
        Router.module = Wide
    """
    _, failed = look_at(project("wide", code=code))
    wrong = failed["router 'wide': weights are shares of the experts"]
    assert "gem-wide/wide" in wrong
    assert "torch.float32 [3, 7] for 3 tokens and 3 experts" in wrong


def test_one_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"no project: there is no pyproject\.toml or setup\.py"):
        validate_plugin(str(tmp_path), print)
    with pytest.raises(UsageError, match="unknown plugin 'gem-nothing-of-the-kind'"):
        validate_plugin("gem-nothing-of-the-kind", print)


def test_one_that_cannot_be_built(tmp_path):
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = gem-broken\nversion = file: nowhere\n")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "no.such.backend"\n'
    )
    with pytest.raises(GemError, match="cannot be built"):
        validate_plugin(str(tmp_path), print)


def test_what_metadata_lack_is_told(project, monkeypatch):
    monkeypatch.setattr(run, "probe", lambda *given: iter(()))

    def without(text):
        lines = text.replace("description = a plugin for tests", "").replace("license = MIT", "")
        return lines.replace("install_requires = gemcore>=0.1", "")

    _, failed = look_at(project("bare", setup=without))
    assert list(failed) == ["description", "licence", "requires GEM"]

    def unheard(text):
        return text.replace("gem.plugins =", "gem.plug_ins =").replace("gemcore>=0.1", "gemcore")

    found, failed = look_at(project("unheard", setup=unheard))
    assert list(failed) == ["entry point"]
    statuses = {finding.check: finding.status for finding in found}
    assert statuses["requires GEM"] == "warning"
