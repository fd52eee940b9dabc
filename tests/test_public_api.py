"""No public name and no hook signature changes without a word in the changelog."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from gemcore import _deprecated, hookspecs

ROOT = Path(__file__).resolve().parent.parent
FRAGMENT = re.compile(
    r"[a-z0-9][a-z0-9-]*\.(added|changed|deprecated|removed|fixed|security)\.md\Z"
)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("griffe", reason="pip install 'gemcore[docs]' brings griffe")
    spec = importlib.util.spec_from_file_location("api_snapshot", ROOT / "tools/api_snapshot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def now(tool: ModuleType) -> list[str]:
    return tool.snapshot().splitlines()


@pytest.fixture(scope="module")
def released(tool: ModuleType) -> list[str]:
    return tool.SNAPSHOT.read_text(encoding="utf-8").splitlines()


def name_of(line: str) -> str:
    """The name that a line is about: a dotted path, or a command with its option.

    >>> name_of("def gemcore.api.load(model: str) -> Session")
    'gemcore.api.load'
    >>> name_of("command gem run -m --model")
    'gem run -m --model'
    """
    if line.startswith("command "):
        return line.removeprefix("command ")
    found = re.match(r"(?:(?:def|class|overload|property) )?([\w.]+)", line)
    assert found, line
    return found[1]


def word_of(name: str) -> str:
    """What an entry of the changelog has to say of a name: its last part."""
    return name.rsplit(" ", 1)[-1] if " " in name else name.rsplit(".", 1)[-1]


def changed(before: Iterable[str], after: Iterable[str]) -> set[str]:
    return {name_of(line) for line in set(before) ^ set(after)}


def without_members(names: set[str], before: Iterable[str]) -> set[str]:
    """Leaves out members of a class, and options of a command, that are new as a whole."""
    old = {name_of(line) for line in before}
    new = {name for name in names if name not in old}
    return {
        name
        for name in names
        if not any(name.startswith((f"{other}.", f"{other} ")) for other in new)
    }


def unreleased() -> str:
    """What the changelog says of changes since the last release, fragments included."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## \[)", text, flags=re.M | re.S)
    fragments = [path.read_text(encoding="utf-8") for path in sorted(fragment_files())]
    return "\n".join([section[1] if section else "", *fragments])


def fragment_files() -> list[Path]:
    return [path for path in (ROOT / "changelog.d").glob("*.md") if path.name != "README.md"]


def unmentioned(names: Iterable[str], text: str) -> list[str]:
    """Names whose word stands in no `code` of a text."""
    code = " ".join(re.findall(r"`([^`]+)`", text))
    return sorted(
        name
        for name in names
        if not re.search(rf"(?<![\w-]){re.escape(word_of(name))}(?![\w-])", code)
    )


def test_changes_are_found_and_must_be_named() -> None:
    before = ["def a.f(x: int) -> int", "class a.B()", "command gem run --old"]
    after = ["def a.f(x: str) -> int", "class a.B()", "class a.C()", "def a.C.g(self) -> None"]
    names = without_members(changed(before, after), before)
    assert names == {"a.f", "a.C", "gem run --old"}
    assert unmentioned(names, "`f` takes text; class `a.C`") == ["gem run --old"]
    assert unmentioned(names, "f, C and --old without code") == sorted(names)
    assert unmentioned({"gem run --top-p"}, "`--top-p2`") == ["gem run --top-p"]


def test_every_change_since_the_release_is_in_the_changelog(
    released: list[str], now: list[str]
) -> None:
    names = without_members(changed(released, now), released)
    silent = unmentioned(names, unreleased())
    assert silent == [], (
        "these public names changed since the last release, and no fragment in changelog.d names "
        f"them in `code`: {', '.join(silent)}"
    )


def test_every_hook_is_in_the_snapshot(now: list[str]) -> None:
    lines = [line for line in now if line.startswith("def gemcore.hookspecs.gem_")]
    hooks = [name for name in vars(hookspecs) if name.startswith("gem_")]
    assert sorted(map(word_of, map(name_of, lines))) == sorted(hooks)


def test_what_was_removed_had_been_deprecated(released: list[str], now: list[str]) -> None:
    """A name goes only after two releases in which it was deprecated."""
    gone = {name_of(line) for line in released} - {name_of(line) for line in now}
    never = sorted(name for name in gone if name not in _deprecated.OWN)
    assert never == [], f"removed without a deprecation in gemcore/_deprecated.py: {never}"


def test_what_is_deprecated_is_public_and_in_the_changelog(now: list[str]) -> None:
    public = {name_of(line) for line in now}
    assert set(_deprecated.OWN) <= public
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8") + unreleased()
    assert unmentioned(_deprecated.OWN, text) == []


def test_fragments_have_names_that_towncrier_knows_and_say_something() -> None:
    for path in fragment_files():
        assert FRAGMENT.match(path.name), f"changelog.d/{path.name}: NAME.added.md and so on"
        text = path.read_text(encoding="utf-8").strip()
        assert text.endswith("."), f"changelog.d/{path.name} must be sentences"
        assert not text.startswith(("-", "*")), f"changelog.d/{path.name}: without the dash"
