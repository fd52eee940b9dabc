import datetime
import sys
from types import SimpleNamespace

import pytest

from gemcore import hookimpl
from gemcore._deprecated import Deprecation, GemDeprecationWarning
from gemcore.discovery import HostSettings
from gemcore.errors import PluginError, UsageError
from gemcore.hookspecs import hookspec
from gemcore.options import PluginChoice
from gemcore.plugins import PluginHost, get_host, host_settings
from gemcore.records import MetricRecord, Option, RouterRecord

GONE = Deprecation(since="0.2", removal=datetime.date(2027, 3, 1), instead="the other one")


def router(name, **fields):
    return RouterRecord(
        name=name,
        summary="a router",
        loader=f"{__name__}:make_router",
        options=(Option(name="top_p", type=float, default=0.9), Option(name="note", type=str)),
        **fields,
    )


def add(host, *records, name="plug", distribution="dist", version="1.0"):
    plugin = SimpleNamespace(gem_routers=hookimpl(lambda: list(records)))
    host.add(plugin, name=name, distribution=distribution, version=version)
    return host.plugins[-1]


def add_broken(host, name="gem_broken", distribution="gem-broken"):
    host.add(SimpleNamespace(), name=name, distribution=distribution, version="3")
    return host.plugins[-1]


@pytest.fixture
def host():
    host = PluginHost()
    add(host, router("scar"), router("none"))
    return host


def make_router(**options):
    return SimpleNamespace(
        prior=lambda prompt: None, layer_module=lambda layer: None, fit=list, options=options
    )


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Loaders import this module by its name, which pytest may not have registered."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, SimpleNamespace()))
    monkeypatch.setattr(sys.modules[__name__], "make_router", make_router, raising=False)


@pytest.mark.parametrize(
    "wanted",
    [
        "scar:top_p=0.5",
        "dist/scar:top_p=0.5",
        "DIST/scar:top_p=.5",
        {"name": "scar", "top_p": 0.5},
        PluginChoice("scar", {"top_p": 0.5}),
    ],
)
def test_select_takes_words_tables_and_choices(host, wanted):
    selection = host.select("router", wanted)
    assert selection.record.name == "scar"
    assert selection.options == {"top_p": 0.5, "note": None}
    assert (selection.origin, selection.words) == ("dist 1.0", "scar:top_p=0.5")
    assert host.select("router", selection.words) == selection


def test_records_are_sorted_and_of_their_kind(host):
    assert [record.name for record in host.routers()] == ["none", "scar"]
    assert [selection.words for selection in host.selections("router")] == [
        "none:top_p=0.9",
        "scar:top_p=0.9",
    ]
    assert host.metrics() == host.targets() == host.quantizers() == host.model_sources() == ()


def test_unknown_names_bring_the_nearest_and_the_list(host):
    with pytest.raises(UsageError) as caught:
        host.select("router", "scra")
    expected = "unknown router 'scra': did you mean 'scar'? Available: none, scar"
    assert str(caught.value) == expected
    with pytest.raises(UsageError, match="unknown router 'elsewhere/scar'"):
        host.select("router", "elsewhere/scar")


def test_unknown_names_mention_what_could_not_be_loaded(host):
    add_broken(host)
    add_broken(host, "worse", "worse-dist")
    with pytest.raises(UsageError) as caught:
        host.select("router", "scra")
    ending = "; 2 plugins could not be loaded: gem_broken, worse, see gem plugins list"
    assert str(caught.value).endswith(ending)


@pytest.mark.parametrize("name", ["broken", "gem_broken", "gem-broken", "gem-broken/anything"])
def test_selecting_a_failed_plugin_gives_its_stored_reason(host, name):
    broken = add_broken(host)
    with pytest.raises(PluginError) as caught:
        host.select("router", name)
    assert str(caught.value) == (
        f"router '{name}': plugin 'gem_broken' of gem-broken 3 could not be loaded: {broken.reason}"
    )


def test_two_distributions_that_claim_a_name_are_both_named(host):
    add(host, router("scar"), name="other", distribution="rival", version="2.0")
    with pytest.raises(UsageError) as caught:
        host.select("router", "scar")
    assert str(caught.value) == (
        "router 'scar' is claimed by dist 1.0 and by rival 2.0: write 'dist/scar' or 'rival/scar'"
    )
    selection = host.select("router", "rival/scar")
    assert (selection.distribution, selection.words) == ("rival", "rival/scar:top_p=0.9")
    assert host.select("router", selection.words) == selection
    assert len(host.selections("router")) == 3


def test_a_built_in_keeps_its_name(host):
    add(host, router("scar"), name="gem_own", distribution="gemcore", version="0.1")
    assert host.select("router", "scar").distribution == "gemcore"
    assert host.select("router", "dist/scar").distribution == "dist"
    reasons = {row.distribution: row.reason for row in host.status() if row.name == "scar"}
    assert reasons == {
        "gemcore": "conflict: also claimed by dist 1.0; 'scar' selects this one",
        "dist": "conflict: also claimed by gemcore 0.1; write 'dist/scar'",
    }


def test_a_clash_within_one_distribution_names_both_plugins(host):
    add(host, router("scar"), name="second")
    for name in ("scar", "dist/scar"):
        with pytest.raises(UsageError, match="claimed by the plugins 'plug' and 'second'"):
            host.select("router", name)


def test_the_same_name_for_another_kind_is_no_conflict(host):
    record = MetricRecord(name="scar", summary="a metric", loader="x:y")
    host.add(SimpleNamespace(gem_metrics=hookimpl(lambda: [record])), name="m", distribution="m")
    assert host.select("router", "scar").record.kind == "router"
    assert {row.reason for row in host.status()} == {""}


def test_a_broken_plugin_stops_no_other(host):
    failed = add_broken(host)
    assert (failed.status, failed.records) == ("failed", ())
    late = add(host, router("late"), name="late", distribution="late")
    assert late.status == "active"
    assert host.select("router", "late").record.name == "late"
    assert [row.name for row in host.status()] == ["scar", "none", "gem_broken", "late"]


def test_a_plugin_that_offers_nothing_here_still_has_a_row(host):
    add(host, name="idle", distribution="idle")
    row = host.status()[-1]
    assert (row.name, row.kind, row.status) == ("idle", None, "active")
    assert row.reason == "offers nothing on this machine"


def test_create_calls_the_loader_with_all_options(host):
    made = host.create(host.select("router", "scar:note=hello"))
    assert made.options == {"top_p": 0.9, "note": "hello"}


def failing(error):
    def loader(**options):
        raise error

    return loader


@pytest.mark.parametrize(
    ("loader", "kind", "reason"),
    [
        (failing(RuntimeError("no\nluck")), PluginError, "cannot be used: RuntimeError: no luck"),
        (failing(SystemExit(4)), PluginError, "cannot be used: SystemExit: 4"),
        (
            failing(UsageError("top_p is odd")),
            UsageError,
            "router 'scar' of dist 1.0: top_p is odd",
        ),
        (lambda **options: None, PluginError, "is no Router: it lacks prior, layer_module, fit"),
        (lambda: None, PluginError, "cannot be used: TypeError"),
    ],
)
def test_what_goes_wrong_in_a_loader_names_plugin_and_reason(
    host, monkeypatch, loader, kind, reason
):
    monkeypatch.setattr(sys.modules[__name__], "make_router", loader)
    with pytest.raises(kind) as caught:
        host.create(host.select("router", "scar"))
    assert str(caught.value).startswith("router 'scar' of dist 1.0")
    assert reason in str(caught.value)


@pytest.mark.parametrize("loader", ["no.such.module:x", "gemcore.errors:NoSuchThing"])
def test_a_loader_that_leads_nowhere_is_a_plugin_error(host, loader):
    record = RouterRecord(name="lost", summary="s", loader=loader)
    add(host, record, name="lost", distribution="lost")
    with pytest.raises(PluginError, match=r"router 'lost' of lost 1\.0 cannot be used"):
        host.create(host.select("router", "lost"))


def test_selecting_a_deprecated_record_warns_with_the_date(host):
    add(host, router("old", deprecated=GONE), name="old", distribution="old")
    expected = "router 'old' is deprecated since 0.2 and goes on 2027-03-01: use the other one"
    with pytest.warns(GemDeprecationWarning) as caught:
        host.select("router", "old")
    assert [str(warning.message) for warning in caught] == [expected]


def test_implementing_a_deprecated_hook_warns_with_the_date():
    @hookspec(warn_on_impl=GONE.warning("hook gem_old"))
    def gem_old():
        """Nothing."""

    from gemcore.loading import new_manager

    host = PluginHost(manager=new_manager(SimpleNamespace(gem_old=gem_old)))
    with pytest.warns(GemDeprecationWarning, match="hook gem_old is deprecated since 0.2"):
        host.add(SimpleNamespace(gem_old=hookimpl(lambda: [])), name="p")


def test_hosts_are_cached_by_settings_and_the_block_decides():
    only = HostSettings(built_in_only=True)
    assert get_host(only) is get_host(HostSettings(built_in_only=True))
    with host_settings(only):
        assert get_host() is get_host(only)
    nothing = HostSettings(allowed=frozenset({"nothing-of-this-name"}))
    assert get_host(nothing) is not get_host(only)
    assert {row.status for row in get_host(nothing).status()} == {"disabled", "failed"}
    with pytest.raises(UsageError, match=r"[0-9]+ plugins disabled by GEM_PLUGINS or --no-plug"):
        get_host(nothing).select("router", "none")
    with pytest.raises(UsageError, match=r"plugin 'gem_general' of gemcore .* is disabled"):
        get_host(nothing).select("router", "general")


def test_built_in_plugins_load_and_make_the_general_path():
    host = get_host(HostSettings(built_in_only=True))
    assert {row.status for row in host.status()} == {"active"}
    router = host.create(host.select("router", "none"))
    assert router.prior("a prompt") is None
    assert router.layer_module(0) is None
    assert router.fit([("a text", "a domain")]) is None
