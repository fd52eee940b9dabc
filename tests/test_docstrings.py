"""Every public name of GEM says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("gemcore", "plugins", "hwtargets", "tools")
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def is_public(name: str) -> bool:
    return not name.startswith("_")


def is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)


def definitions(node: ast.AST, path: str) -> Iterator[tuple[str, Definition]]:
    """Public classes, functions and methods below a module or a class, with their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not is_public(child.name) or is_overload(child):
                continue
            name = f"{path}.{child.name}"
            yield name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, name)
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from definitions(child, path)


def documented(path: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    yield name, bool(ast.get_docstring(tree))
    for inner, node in definitions(tree, name):
        yield inner, bool(ast.get_docstring(node))


def test_the_finder_sees_what_it_must(tmp_path: Path) -> None:
    source = '''
"""A module."""
class Told:
    """Told."""
    def silent(self): ...
    def _private(self): ...
    @overload
    def told(self): ...
if True:
    def silent(): ...
def told():
    """Told."""
    def inner(): ...
'''
    file = tmp_path / "made.py"
    file.write_text(source)
    tree = ast.parse(source)
    found = {name: bool(ast.get_docstring(node)) for name, node in definitions(tree, "made")}
    assert found == {
        "made.Told": True,
        "made.Told.silent": False,
        "made.silent": False,
        "made.told": True,
    }


def test_every_public_name_has_a_docstring() -> None:
    everything = [
        entry
        for source in SOURCES
        for path in sorted((ROOT / source).rglob("*.py"))
        if not any(
            part.startswith(("_", ".")) and part != "__init__.py" for part in path.parts[-1:]
        )
        for entry in documented(path)
    ]
    assert len(everything) > 1000
    assert [name for name, has_docstring in everything if not has_docstring] == []
