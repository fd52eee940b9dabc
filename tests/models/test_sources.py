"""From a name to a source: the order of asking, and what is said when nobody owns a name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gemcore.errors import PluginError, UsageError
from gemcore.hookspecs import hookimpl
from gemcore.models.sources import known_names, load_checkpoint, looks_like_path, owning_source
from gemcore.plugins import PluginHost
from gemcore.records import ModelSourceRecord


class Source:
    """Owns some names, and says which one it was asked for."""

    def __init__(self, label="source", names=()):
        self.label, self.names = label, names

    def owns(self, name):
        return name in self.names

    def load(self, name, progress=None):
        if progress:
            progress(1, 2)
        return f"{self.label} opened {name}"

    def cached(self):
        return ()


def early():
    return Source("early", ["shared", "first"])


def late():
    return Source("late", ["shared", "tiny-1m"])


def broken():
    raise RuntimeError("no licence")


def angry():
    def refuse(name):
        raise KeyError(name)

    source = Source("angry")
    source.owns = refuse
    return source


@pytest.fixture
def host_of(monkeypatch):
    import sys

    # Loaders are found by import, and test modules have no fixed name.
    module = SimpleNamespace(early=early, late=late, broken=broken, angry=angry)
    monkeypatch.setitem(sys.modules, "sources_under_test", module)

    def make(*names):
        records = {
            "late": ModelSourceRecord(
                name="late",
                summary="asked last",
                loader="sources_under_test:late",
                models=(("tiny-1m", "one million"), ("shared", "both have it")),
                order=50,
            ),
            "early": ModelSourceRecord(
                name="early", summary="asked first", loader="sources_under_test:early", order=5
            ),
            "broken": ModelSourceRecord(
                name="broken",
                summary="cannot be made",
                loader="sources_under_test:broken",
                models=(("big-9b", "nine billion"),),
                order=1,
            ),
            "angry": ModelSourceRecord(
                name="angry", summary="fails", loader="sources_under_test:angry", order=2
            ),
        }

        @hookimpl
        def gem_model_sources():
            yield from (records[name] for name in names)

        host = PluginHost()
        host.add(SimpleNamespace(gem_model_sources=gem_model_sources), name="test")
        return host

    return make


def test_sources_are_asked_in_order(host_of):
    host = host_of("late", "early")
    assert load_checkpoint("shared", host) == "early opened shared"
    assert load_checkpoint("tiny-1m", host) == "late opened tiny-1m"
    assert owning_source("first", host)[0].name == "early"
    assert known_names(host) == ["shared", "tiny-1m"]


def test_progress_is_passed_on(host_of):
    seen = []
    load_checkpoint("first", host_of("early"), lambda *step: seen.append(step))
    assert seen == [(1, 2)]


def test_an_unknown_name_lists_what_is_known(host_of):
    with pytest.raises(UsageError) as caught:
        load_checkpoint("tiny-2m", host_of("late"))
    assert str(caught.value) == (
        "unknown model 'tiny-2m': did you mean 'tiny-1m'? Known are shared, tiny-1m; the path of a "
        ".gguf file or of a Hugging Face folder, or a Hub id (OWNER/NAME), work as well"
    )


def test_without_sources_nothing_is_known(host_of):
    with pytest.raises(UsageError, match="unknown model 'x': Known are none"):
        load_checkpoint("x", host_of())


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name(host_of, name):
    with pytest.raises(UsageError, match="a model needs a name; known are shared, tiny-1m"):
        load_checkpoint(name, host_of("late"))


@pytest.mark.parametrize("name", ["a/b", "tiny.gguf", "TINY.GGUF", "./tiny", "~/tiny", ".."])
def test_what_can_only_be_a_path_is_missing(host_of, name):
    assert looks_like_path(name)
    with pytest.raises(UsageError) as caught:
        load_checkpoint(name, host_of("late"))
    assert str(caught.value) == f"no such file: {name}"


def test_a_broken_source_does_not_stop_the_others(host_of):
    host = host_of("broken", "angry", "late")
    assert load_checkpoint("tiny-1m", host) == "late opened tiny-1m"


def test_its_own_models_say_why_they_cannot_be_had(host_of):
    with pytest.raises(PluginError, match=r"'broken' .* cannot be used: RuntimeError: no licence"):
        load_checkpoint("big-9b", host_of("broken", "late"))


def test_failures_are_said_when_nobody_owns_the_name(host_of):
    with pytest.raises(UsageError) as caught:
        load_checkpoint("unknown-name", host_of("broken", "angry"))
    assert "RuntimeError: no licence" in str(caught.value)
    assert "model source 'angry' failed when asked: KeyError" in str(caught.value)
