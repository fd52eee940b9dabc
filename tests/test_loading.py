import signal
import sys
import threading
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from gemcore import hookimpl
from gemcore.errors import PluginError
from gemcore.loading import (
    MOST_RECORDS,
    MOST_SECONDS,
    check_contract,
    collect_records,
    import_plugin,
    new_manager,
    one_sentence,
    time_limit,
)
from gemcore.plugins import PluginHost
from gemcore.protocols import Metric, Router
from gemcore.records import RouterRecord


def router(name="some"):
    return RouterRecord(name=name, summary="a router", loader="some.where:Router")


def plugin_of(**hooks):
    """A plugin whose hooks return what is given, or do what a given function does."""

    def implement(result):
        return hookimpl(result if callable(result) else lambda: result)

    return SimpleNamespace(**{name: implement(result) for name, result in hooks.items()})


def raising(error):
    def hook():
        yield router()
        raise error

    return hook


def endless():
    number = 0
    while True:
        yield router(f"r{number}")
        number += 1


def unmarked():
    return [router()]


@hookimpl(wrapper=True)
def wrapping():
    return (yield)


def test_records_come_in_order_from_any_iterable():
    plugin = plugin_of(gem_routers=[router("b"), router("a")], gem_metrics=())
    assert [record.name for record in collect_records(new_manager(), plugin, "p")] == ["b", "a"]


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (plugin_of(gem_routers=raising(KeyError("x"))), "its gem_routers failed: KeyError: 'x'"),
        (plugin_of(gem_routers=raising(SystemExit(3))), "its gem_routers failed: SystemExit: 3"),
        (plugin_of(gem_routers=None), "it returns NoneType instead of yielding records"),
        (plugin_of(gem_routers=router()), "it returns RouterRecord instead of yielding"),
        (plugin_of(gem_routers="none"), "it returns str instead of yielding records"),
        (plugin_of(gem_routers=[router(), "x"]), "yields str, not RouterRecord"),
        (plugin_of(gem_metrics=[router()]), "yields RouterRecord, not MetricRecord"),
        (plugin_of(gem_routers=[router(), router()]), "two records for router 'some'"),
        (plugin_of(gem_routers=endless), f"yields more than {MOST_RECORDS} records"),
        (plugin_of(gem_routers=lambda surplus: []), "surplus"),
        (plugin_of(gem_rooters=[]), "unknown hook 'gem_rooters': did you mean 'gem_routers'?"),
        (plugin_of(other=[]), "unknown hook 'other': hooks are gem_benchmarks, "),
        (SimpleNamespace(gem_routers=unmarked), "gem_routers lacks the mark @gemcore.hookimpl"),
        (SimpleNamespace(gem_routers=wrapping), "its gem_routers wraps other plugins' hooks"),
        (SimpleNamespace(), "implements none of the hooks gem_benchmarks, gem_experts, "),
        (SimpleNamespace(GEM_HOOK_API=2), "needs hook API 2, but this GEM has 1"),
        (SimpleNamespace(GEM_HOOK_API="1"), "its GEM_HOOK_API is '1', not a whole number"),
    ],
)
def test_a_broken_plugin_leaves_the_manager_as_it_was(plugin, reason):
    manager = new_manager()
    with pytest.raises(PluginError) as caught:
        collect_records(manager, plugin, "p")
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not manager.get_plugins()
    sound = plugin_of(gem_routers=[router()])
    assert collect_records(manager, sound, "p") == (router(),)


def test_this_and_older_hook_apis_are_accepted():
    plugin = plugin_of(gem_routers=[router()])
    for version in (0, 1):
        plugin.GEM_HOOK_API = version
        assert collect_records(new_manager(), plugin, "p") == (router(),)


def test_an_interrupt_in_a_hook_reaches_the_user():
    manager = new_manager()
    with pytest.raises(KeyboardInterrupt):
        collect_records(manager, plugin_of(gem_routers=raising(KeyboardInterrupt())), "p")
    assert not manager.get_plugins()


def point(tmp_path, monkeypatch, source):
    (tmp_path / "fresh_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fresh_plugin", raising=False)
    return EntryPoint("fresh", "fresh_plugin", "gem.plugins")


def test_heavy_imports_of_a_plugin_are_noticed(tmp_path, monkeypatch):
    # Set first, so that leaving the test takes the plugin's away, too.
    monkeypatch.setitem(sys.modules, "tvm_ffi", sys)
    monkeypatch.delitem(sys.modules, "tvm_ffi")
    source = "import sys\nsys.modules['tvm_ffi'] = sys\n"
    _, heavy = import_plugin(point(tmp_path, monkeypatch, source))
    assert heavy == {"tvm_ffi"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys; sys.exit('bye')", "it cannot be imported: SystemExit: bye"),
        ("1 +", "it cannot be imported: SyntaxError: invalid syntax (fresh_plugin.py, line 1)"),
        ("from gemcore.records import Nothing", "it may want another version of GEM than this"),
    ],
)
def test_import_failures_have_one_sentence(tmp_path, monkeypatch, source, reason):
    with pytest.raises(PluginError) as caught:
        import_plugin(point(tmp_path, monkeypatch, source))
    assert reason in str(caught.value)


def test_an_interrupt_at_import_reaches_the_user(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        import_plugin(point(tmp_path, monkeypatch, "raise KeyboardInterrupt"))


def test_one_sentence_is_one_line_of_bearable_length():
    class UnprintableError(Exception):
        def __str__(self):
            raise ValueError

    assert one_sentence(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert one_sentence(UnprintableError()) == "UnprintableError"
    assert one_sentence(SystemExit()) == "SystemExit"
    assert len(one_sentence(ValueError("x" * 10_000))) < 320


def test_contract_names_what_is_missing():
    class Half:
        prior = "not callable"

        def fit(self, examples):
            pass

    with pytest.raises(PluginError, match="Half object is no Router: it lacks prior, layer_module"):
        check_contract(Half(), Router)
    check_contract(SimpleNamespace(compute=print), Metric)


def sleeping():
    import time

    try:
        time.sleep(600)
    except Exception:  # a plugin that catches all that it can
        time.sleep(600)
    yield router()


def test_a_plugin_that_does_not_finish_is_given_up(monkeypatch):
    monkeypatch.setenv("GEM_PLUGIN_SECONDS", "0.05")
    before = signal.getsignal(signal.SIGALRM)
    host = PluginHost()
    host.add(plugin_of(gem_routers=sleeping), name="sleepy", distribution="gem-sleepy", version="2")
    host.add(plugin_of(gem_routers=[router("quick")]), name="quick")
    sleepy, quick = host.plugins
    assert sleepy.status == "failed"
    assert sleepy.reason.startswith("it did not finish loading within 0.05 s")
    assert quick.status == "active"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_timer_of_somebody_else_is_left_alone(monkeypatch):
    monkeypatch.setenv("GEM_PLUGIN_SECONDS", "0.01")
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        with time_limit():
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("words", ["0", "-1", "inf", "nan"])
def test_there_may_be_no_limit(monkeypatch, words):
    monkeypatch.setenv("GEM_PLUGIN_SECONDS", words)
    with time_limit():
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_limit_that_is_no_number_is_the_usual_one(monkeypatch):
    monkeypatch.setenv("GEM_PLUGIN_SECONDS", "soon")
    with time_limit():
        assert 20 < signal.getitimer(signal.ITIMER_REAL)[0] <= MOST_SECONDS


def test_in_another_thread_there_is_no_limit(monkeypatch):
    found = []

    def look():
        with time_limit():
            found.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(0.0, 0.0)]
