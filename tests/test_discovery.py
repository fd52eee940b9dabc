import pytest

from gemcore.discovery import Entry, HostSettings, find_entries, normalize


def install(folder, name, version, entry_points, metadata=None):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: of no account\n"
    (info / "METADATA").write_text(text if metadata is None else metadata)
    (info / "entry_points.txt").write_text(entry_points)
    return info


@pytest.fixture
def only_here(tmp_path, monkeypatch):
    """An empty `sys.path` but for two fresh folders."""
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr("sys.path", [str(first), str(second)])
    return first, second


def found():
    return [(e.group, e.name, e.origin) for e in find_entries()]


def test_finds_both_groups_with_distribution_and_version(only_here):
    text = "[gem.plugins]\nalpha = alpha.plug\n[gem.commands]\nbeta = beta:main\n[other]\nx = y\n"
    install(only_here[0], "my-Plugin", "1.5", text)
    assert found() == [
        ("gem.commands", "beta", "my-Plugin 1.5"),
        ("gem.plugins", "alpha", "my-Plugin 1.5"),
    ]
    assert [entry.package for entry in find_entries()] == ["beta", "alpha"]


def test_the_first_of_two_installations_on_the_path_counts(only_here):
    install(only_here[1], "Some.Thing", "1", "[gem.plugins]\nolder = x\n")
    install(only_here[0], "some-thing", "2", "[gem.plugins]\nnewer = x\n")
    assert found() == [("gem.plugins", "newer", "some-thing 2")]


def test_a_malformed_file_spoils_no_other_distribution(only_here):
    install(only_here[0], "broken", "1", "[gem.plugins]\nthis is no entry point\n")
    install(only_here[0], "sound", "1", "[gem.plugins]\nsound = sound\n")
    broken, sound = find_entries()
    assert (broken.point, sound.name) == (None, "sound")
    assert broken.problem == "the entry_points.txt of broken 1 is malformed: install it again"


def test_undecodable_and_missing_metadata_are_survived(only_here):
    bad = install(only_here[0], "bytes", "1", "")
    (bad / "entry_points.txt").write_bytes(b"[gem.plugins]\nx\xff = y\n")
    install(only_here[0], "nameless", "1", "[gem.plugins]\nx = y\n", metadata="")
    assert found() == [("gem.plugins", "x", "unknown")]


@pytest.mark.parametrize("name", ["Gem_Scar", "gem.scar", "GEM--scar", "gem-_.scar"])
def test_names_are_compared_as_pypi_does(name):
    assert normalize(name) == "gem-scar"


def entry(name, distribution):
    return Entry(group="gem.plugins", name=name, distribution=distribution, version="1")


def test_allow_list_takes_entry_points_and_distributions():
    settings = HostSettings.from_environment({"GEM_PLUGINS": " gem_scar , Other.Dist,, "})
    assert settings.refusal(entry("gem-scar", "x")) is None
    assert settings.refusal(entry("y", "other-dist")) is None
    assert settings.refusal(entry("gem_host", "gemcore")) == (
        "GEM_PLUGINS allows only gem-scar, other-dist"
    )
    assert settings.missing([entry("y", "other-dist")]) == ["gem-scar"]


@pytest.mark.parametrize("environment", [{}, {"GEM_PLUGINS": ""}, {"GEM_PLUGINS": " , "}])
def test_without_a_list_everything_is_allowed(environment):
    settings = HostSettings.from_environment(environment)
    assert settings.refusal(entry("anything", "at-all")) is None
    assert settings.missing([]) == []


def test_no_plugins_leaves_those_of_gem():
    settings = HostSettings.from_environment({}, no_plugins=True)
    assert settings.refusal(entry("gem_host", "gemcore")) is None
    assert "--no-plugins" in settings.refusal(entry("gem_host", "gemcore-extras"))
