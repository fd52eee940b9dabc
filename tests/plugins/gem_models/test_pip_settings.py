"""Reading pip's own configuration, as pip itself prints it."""

from __future__ import annotations

import subprocess

import pytest

from gem_models.pip_settings import (
    PipSettings,
    default_index,
    parse_config,
    read_pip_settings,
    run_pip,
    settings_from,
)


@pytest.fixture
def _plain_pip(monkeypatch, tmp_path):
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "CERT", "PROXY", "NO_INDEX"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))


@pytest.mark.usefixtures("_plain_pip")
def test_files_and_environment_are_merged_as_pip_does(monkeypatch, tmp_path):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a.example/simple\ncert = /a.pem\nproxy = http://p:1\n"
        "extra-index-url = https://b.example/x\n    https://c.example/y\n"
        "trusted-host = t.example u.example:8443\n"
        "[download]\nproxy = http://p:2\n[install]\ncert = /wrong.pem\n"
    )
    monkeypatch.setenv("PIP_CERT", "/b.pem")
    settings = read_pip_settings()
    assert settings.indexes == (
        "https://a.example/simple",
        "https://b.example/x",
        "https://c.example/y",
    )
    assert settings.certificates == "/b.pem"
    assert settings.proxies() == {"http": "http://p:2", "https": "http://p:2"}
    assert settings.verification("https://a.example/f") == "/b.pem"
    assert settings.verification("https://user:pw@t.example:99/f") is False
    assert settings.verification("https://u.example:8443/f") is False
    assert settings.verification("https://u.example/f") == "/b.pem"


def test_no_index_means_links_alone():
    settings = settings_from({"no-index": "true", "find-links": "/wheels file:///more"})
    assert settings.indexes == ()
    assert settings.links == ("/wheels", "file:///more")


def test_the_defaults_are_pips():
    settings = settings_from({})
    assert settings == PipSettings()
    assert settings.verification("https://a.example/") is True
    assert settings.proxies() is None


def test_without_an_index_pip_says_where_it_looks(monkeypatch):
    assert default_index()["index-url"].startswith("https://")
    empty = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr("gem_models.pip_settings.run_pip", lambda *words: empty)
    assert read_pip_settings().indexes == (default_index()["index-url"],)


def test_lines_that_are_no_settings_are_passed_over():
    assert parse_config("WARNING: odd\nglobal.cert=unquoted\nglobal.proxy='x'\n") == {"proxy": "x"}


def test_a_python_without_pip_has_the_defaults(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "No module named pip")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    assert read_pip_settings() == PipSettings()


def test_a_pip_in_the_current_folder_is_not_run(monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("print('trap')")
    monkeypatch.chdir(tmp_path)
    done = run_pip("--version")
    assert done.stdout.startswith("pip ")
    assert done.returncode == 0
