"""The rules that hold for the repository as a whole: packages, pins, imports, links, commands."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
SOURCE_FOLDERS = ("gemcore", "plugins", "hwtargets")
MOST_LINES = 600
SLOW_TO_IMPORT = {"torch", "tvm", "tvm_ffi", "transformers"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines_of(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def pairs_of(text: str) -> dict[str, str]:
    return dict([part.strip() for part in line.split("=", 1)] for line in lines_of(text))


def package_folders() -> dict[str, str]:
    """Every package of the source folders, by its import name, as setup.cfg should map it."""
    found = {}
    for root in SOURCE_FOLDERS:
        for module in (ROOT / root).rglob("*.py"):
            folder = module.parent.relative_to(ROOT)
            parts = folder.parts if root == "gemcore" else folder.parts[1:]
            found[".".join(parts)] = folder.as_posix()
    return found


def modules(*patterns: str) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    assert found, f"no module matches {patterns}"
    return found


def all_modules() -> list[Path]:
    return modules(*(f"{folder}/**/*.py" for folder in SOURCE_FOLDERS))


def imports(tree: ast.AST, *, at_import_time: bool) -> Iterator[tuple[str, int]]:
    """Dotted names of imported modules, with lines; functions and TYPE_CHECKING may be left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif at_import_time and is_for_types(node):
            # The else branch does run.
            for branch in getattr(node, "orelse", []):
                yield from imports(ast.Module([branch], []), at_import_time=True)
        elif not (at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, at_import_time=at_import_time)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported(path: Path, *, at_import_time: bool) -> Iterator[tuple[str, str]]:
    """Imported names and where they stand, `(name, "file:line")`."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for name, line in imports(tree, at_import_time=at_import_time):
        yield name, f"{path.relative_to(ROOT)}:{line}"


def repository_files() -> list[Path]:
    """Files that are tracked, or would be."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = listing.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def documents() -> list[Path]:
    return modules("*.md", "docs/**/*.md")


def test_the_import_finder_sees_what_it_must() -> None:
    source = """
import numpy.linalg
if TYPE_CHECKING:
    import torch
else:
    import tvm
def later():
    import tvm_ffi
class Now:
    from transformers import Auto
try:
    from torch import nn
except ImportError:
    pass
"""
    tree = ast.parse(source)
    now = [name for name, _ in imports(tree, at_import_time=True)]
    assert now == ["numpy.linalg", "tvm", "transformers.Auto", "torch.nn"]
    ever = [name for name, _ in imports(tree, at_import_time=False)]
    assert sorted(set(ever) - set(now)) == ["torch", "tvm_ffi"]


def test_setup_cfg_lists_every_package_and_no_other() -> None:
    assert sorted(lines_of(setup_cfg()["options"]["packages"])) == sorted(package_folders())


def test_setup_cfg_maps_packages_to_their_folders() -> None:
    folders = package_folders()
    expected = {name: folder for name, folder in folders.items() if "." not in name}
    assert pairs_of(setup_cfg()["options"]["package_dir"]) == expected


def test_every_package_has_an_init_module() -> None:
    without = [
        folder
        for folder in package_folders().values()
        if not (ROOT / folder / "__init__.py").is_file()
    ]
    assert without == []


def test_package_data_exists() -> None:
    folders = package_folders()
    data = dict(setup_cfg()["options.package_data"])
    assert "py.typed" in data["gemcore"]
    for package, patterns in data.items():
        for pattern in lines_of(patterns):
            assert list((ROOT / folders[package]).glob(pattern)), f"{package}: no {pattern}"


@pytest.mark.parametrize("group", ["console_scripts", "gem.plugins"])
def test_entry_points_resolve(group: str) -> None:
    points = pairs_of(setup_cfg()["options.entry_points"][group])
    assert points
    for point in points.values():
        module, _, attribute = point.partition(":")
        found = importlib.import_module(module)
        if attribute:
            assert callable(getattr(found, attribute))


def test_every_plugin_package_is_an_entry_point() -> None:
    points = pairs_of(setup_cfg()["options.entry_points"]["gem.plugins"])
    packages = {name for name in package_folders() if name.split(".")[0] != "gemcore"}
    assert set(points.values()) == {name for name in packages if "." not in name}


def test_no_module_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in all_modules()
    }
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}


def test_what_starts_first_imports_nothing_slow() -> None:
    first = modules(
        *(
            f"gemcore/{name}.py"
            for name in ("__init__", "__main__", "hookspecs", "records", "plugins", "recipe")
        ),
        "gemcore/cli/*.py",
        "plugins/*/__init__.py",
        "hwtargets/*/__init__.py",
    )
    slow = [
        f"{place} imports {name}"
        for path in first
        for name, place in imported(path, at_import_time=True)
        if name.split(".")[0] in SLOW_TO_IMPORT
    ]
    assert slow == []


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("tvm", ("gemcore/compiler/", "hwtargets/")),
        ("tvm_ffi", ("gemcore/runtime/", "gemcore/compiler/", "hwtargets/")),
    ],
)
def test_tvm_is_imported_only_behind_its_seam(module: str, allowed: tuple[str, ...]) -> None:
    outside = [
        place
        for path in all_modules()
        for name, place in imported(path, at_import_time=False)
        if name.split(".")[0] == module and not place.startswith(allowed)
    ]
    assert outside == []


def test_the_core_imports_no_plugin() -> None:
    plugins = {name for name in package_folders() if not name.startswith("gemcore")}
    wrong = [
        f"{place} imports {name}"
        for path in modules("gemcore/**/*.py")
        for name, place in imported(path, at_import_time=False)
        if name.split(".")[0] in plugins
    ]
    assert wrong == []


BUILT_ON = {
    "gem_experts": {"gem_study", "gem_suite", "gem_tradeoff"},
    "gem_routers": {"gem_scar"},
    "gem_scar": {"gem_models", "gem_suite"},
    "gem_study": {"gem_suite", "gem_tradeoff"},
}
"""Plugins that say in their documents that they need others, and use their public names."""


def test_no_plugin_imports_another() -> None:
    plugins = {name for name in package_folders() if not name.startswith("gemcore")}
    wrong = [
        f"{place} imports {name}"
        for path in modules("plugins/**/*.py", "hwtargets/**/*.py")
        for name, place in imported(path, at_import_time=False)
        for own in [path.relative_to(ROOT).parts[1]]
        if name.split(".")[0] in plugins - {own} - BUILT_ON.get(own, set())
    ]
    assert wrong == []


def pins() -> list[tuple[str, str]]:
    lines = lines_of((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    found = []
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
        assert match, f"constraints.txt: '{line}' is not of the form name==version"
        found.append((canonicalize_name(match[1]), match[2]))
    return found


def test_every_pin_appears_once() -> None:
    names = [name for name, _ in pins()]
    assert sorted(names) == sorted(set(names))


def test_pins_cover_setup_cfg_and_lie_in_its_ranges() -> None:
    configuration = setup_cfg()
    wanted = [
        configuration["options"]["install_requires"],
        *configuration["options.extras_require"].values(),
    ]
    versions = dict(pins())
    for requirement in (Requirement(line) for text in wanted for line in lines_of(text)):
        pinned = versions.get(canonicalize_name(requirement.name))
        assert pinned, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(Version(pinned)), f"{requirement}, but {pinned}"


def test_files_name_no_place_of_one_machine() -> None:
    # Put together, so that this file does not hold them.
    places = [f"/{name}/" for name in ("work", "root", "mnt")]
    for path in repository_files():
        content = path.read_bytes()
        for place in places:
            # Not the middle of a longer path or of a word.
            pattern = rb"(?<![\w.~-])" + re.escape(place.encode())
            assert not re.search(pattern, content), f"{path.relative_to(ROOT)} names {place}"


def test_links_of_the_documents_lead_somewhere() -> None:
    links = [
        (path, target)
        for path in documents()
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", target)
    ]
    assert links
    for path, target in links:
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), f"{path.relative_to(ROOT)} links to {target}"
        if anchor:
            assert anchor in anchors(page), f"{path.relative_to(ROOT)} links to {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, made as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def shown_commands() -> list[tuple[str, list[str]]]:
    """Every `gem …` line of the documents' code blocks: where it stands, and its words."""
    found = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"^```(?:console|sh)\n(.*?)^```", text, flags=re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.removeprefix("$ ").rpartition(" | ")[2]
                if command.startswith("gem "):
                    words = shlex.split(command, comments=True)
                    found.append((f"{path.relative_to(ROOT)}: {command}", words[1:]))
    return found


def test_documents_show_only_commands_and_options_that_exist() -> None:
    from gemcore.cli.main import gem

    shown = shown_commands()
    assert len(shown) > 10
    for place, words in shown:
        command: click.Command = gem
        context = click.Context(gem, info_name="gem")
        known = option_names(command, context)
        arguments = []
        for word in words:
            if command.context_settings.get("ignore_unknown_options"):
                break  # what follows goes to another program
            if word.startswith("-"):
                assert word.partition("=")[0] in known, f"{place}: no option {word}"
            elif isinstance(command, click.Group):
                found = command.get_command(context, word)
                assert found is not None, f"{place}: no command {word}"
                command, context = found, click.Context(found, info_name=word, parent=context)
                known |= option_names(command, context)
            else:
                arguments.append(word)
        assert command is not gem or "--help" in words or "--version" in words, place


def option_names(command: click.Command, context: click.Context) -> set[str]:
    names = {name for parameter in command.get_params(context) for name in parameter.opts}
    return names | {"--help"}


def test_documents_show_only_recipes_that_can_be_read(tmp_path: Path) -> None:
    from gemcore.recipe import Recipe

    recipes = [
        block
        for path in documents()
        for block in re.findall(
            r"^```toml\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S
        )
    ]
    assert recipes
    for recipe in recipes:
        file = tmp_path / "gem.toml"
        file.write_text(recipe, encoding="utf-8")
        assert Recipe.from_file(file).model


def test_makefile_describes_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"^([a-z-]+):.*## ", text, flags=re.M))
    wanted = {"help", "setup", "run", "test", "test-all", "check", "bench", "bench-peers", "clean"}
    assert wanted <= described
    assert "make check test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
