"""Finding sets: those of plugins, the user's own, folders."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from gemcore.errors import PluginError, UsageError
from gemcore.experts.library import (
    find_set,
    looks_like_folder,
    open_set,
    own_copy,
    router_files,
    set_names,
    user_sets_folder,
)
from gemcore.hookspecs import hookimpl
from gemcore.plugins import PluginHost
from gemcore.records import ExpertSetRecord
from gemcore.testing.experts import write_tiny_set


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """The folder of the user's own sets."""
    monkeypatch.setenv("GEM_EXPERTS", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def host(folder, monkeypatch):
    """A host with the set `clinic`, in `folder`."""
    return make_host(monkeypatch, {"clinic": folder})


def make_host(monkeypatch, sets, distribution="local", host=None):
    module = SimpleNamespace(
        **{name.replace("-", "_"): (lambda value=value: value) for name, value in sets.items()}
    )
    monkeypatch.setitem(sys.modules, f"experts_of_{distribution}", module)

    @hookimpl
    def gem_experts():
        for name in sets:
            yield ExpertSetRecord(
                name=name,
                summary="a set",
                base_name="tiny",
                loader=f"experts_of_{distribution}:{name.replace('-', '_')}",
            )

    host = host or PluginHost()
    host.add(SimpleNamespace(gem_experts=gem_experts), name=distribution, distribution=distribution)
    return host


def test_a_set_of_a_plugin(host, folder, own):
    assert set_names(host) == ("clinic",)
    for choice in (None, "clinic", str(folder)):
        assert open_set(choice, host).folder == folder
    assert find_set("clinic", host).own_folder == own / "clinic"
    assert find_set(str(folder), host).own_folder is None


def test_the_users_own_set_of_that_name_comes_first(host, folder, own, tiny):
    copy = own_copy(find_set("clinic", host))
    assert (copy.folder, copy.own_folder) == (own / "clinic", None)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert sorted(path.relative_to(copy.folder) for path in copy.folder.rglob("*")) == files
    for name in files:
        assert (copy.folder / name).stat().st_mtime_ns == (folder / name).stat().st_mtime_ns
    assert open_set("clinic", host).folder == own / "clinic"
    assert own_copy(find_set("clinic", host)) == find_set("clinic", host)
    assert [path.name for path in own.iterdir()] == ["clinic"]


def test_a_set_that_only_the_user_has(host, own, tiny):
    write_tiny_set(own / "mine", tiny)
    (own / "empty").mkdir()
    assert set_names(host) == ("clinic", "mine")
    assert open_set("mine", host).folder == own / "mine"
    assert open_set(None, host).folder != own / "mine"
    assert open_set(None, PluginHost()).folder == own / "mine"


def test_no_choice_among_several(host, own, tiny, folder, monkeypatch):
    several = make_host(monkeypatch, {"a": folder, "b": folder})
    with pytest.raises(UsageError, match="say which experts, with --experts: a, b, or a folder"):
        find_set(None, several)
    with pytest.raises(UsageError, match="there are no experts"):
        find_set(None, PluginHost())


def test_two_distributions_with_one_name(host, folder, monkeypatch, own):
    make_host(monkeypatch, {"clinic": folder.parent}, "other", host)
    with pytest.raises(UsageError, match="write 'local/clinic' or 'other/clinic'"):
        find_set("clinic", host)
    place = find_set("local/clinic", host)
    assert (place.folder, place.own_folder) == (folder, own / "local@clinic")
    assert own_copy(place).folder == find_set("local/clinic", host).folder == own / "local@clinic"


def test_unknown_names(host, own, tiny):
    with pytest.raises(UsageError, match="unknown expert set 'clinc': did you mean 'clinic'"):
        find_set("clinc", host)
    with pytest.raises(UsageError, match="unknown expert set 'x': Available: none are installed"):
        find_set("x", PluginHost())
    write_tiny_set(own / "mine", tiny)
    with pytest.raises(UsageError, match="unknown expert set 'mien': did you mean 'mine'"):
        find_set("mien", PluginHost())
    with pytest.raises(UsageError, match="no expert set at .*nowhere: there is no such folder"):
        find_set("./nowhere", host)


def test_a_loader_that_gives_no_path(monkeypatch):
    host = make_host(monkeypatch, {"clinic": "text"})
    with pytest.raises(PluginError, match="its loader returns str, not the Path of a folder"):
        find_set("clinic", host)


def test_folders_are_told_from_names():
    assert [looks_like_folder(text) for text in ("./a", "~/a", "a/b", "..", "a", "a.b")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


def test_fitted_routers_by_name(folder):
    for name in ("router.scar.safetensors", "router.my.own.safetensors", "router.x", "law.json"):
        (folder / name).write_bytes(b"")
    assert list(router_files(folder)) == ["my.own", "scar"]


def test_the_place_of_the_platform(monkeypatch):
    monkeypatch.delenv("GEM_EXPERTS")
    assert user_sets_folder().parts[-2:] == ("gemcore", "experts")
