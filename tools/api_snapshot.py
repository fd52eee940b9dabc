"""Writes down GEM's public interface: names and signatures of the library, and the command line.

`tools/public-api.txt` holds that of the last release. `python tools/api_snapshot.py` rewrites it, which is
part of making a release; between releases tests/test_public_api.py compares it with the sources, and wants
an entry in the changelog for every difference. Sources are read (griffe), not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import click
import griffe

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / "tools" / "public-api.txt"

PUBLIC: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gemcore": (),
        "gemcore.api": ("load", "compile", "open_session"),
        "gemcore.discovery": ("HostSettings",),
        "gemcore.errors": (),
        "gemcore.experts.expert_set": ("ExpertSet", "read_set"),
        "gemcore.generation": ("Generation", "GenerationStream"),
        "gemcore.hookspecs": (),
        "gemcore.options": ("PluginChoice",),
        "gemcore.perplexity": ("Perplexity",),
        "gemcore.plugins": (
            "LoadedPlugin",
            "PluginHost",
            "PluginStatus",
            "Selection",
            "get_host",
            "host_settings",
        ),
        "gemcore.protocols": (),
        "gemcore.recipe": ("Recipe", "RunSettings"),
        "gemcore.records": (),
        "gemcore.reports": (),
        "gemcore.routing": ("EarlyPrior", "PriorNetwork"),
        "gemcore.scoring": ("Score",),
        "gemcore.session": ("Session",),
        "gemcore.testing": (),
        "gemcore.text.sampling": ("SamplingSettings",),
    }
)
"""Modules with public names: those names, or all that do not begin with an underscore."""


def library() -> Iterator[str]:
    """One line for each public name of the library; several for one with overloads."""
    package = griffe.load(
        "gemcore", search_paths=[str(ROOT)], submodules=True, allow_inspection=False
    )
    for module_name, names in PUBLIC.items():
        _, _, inner = module_name.partition(".")
        module = package[inner] if inner else package
        for name in names or _public_names(module):
            yield from _lines(f"{module_name}.{name}", module.members[name])


def command_line() -> Iterator[str]:
    """One line for each command, option and argument that comes with GEM."""
    from gemcore.cli.main import gem

    root = click.Context(gem, info_name="gem")
    root.params["no_plugins"] = True
    yield from _command("gem", gem, root)


def _public_names(module: griffe.Object | griffe.Alias) -> list[str]:
    if module.exports is not None:
        return sorted(str(name) for name in module.exports if name != "__version__")
    own = (
        name
        for name, member in module.members.items()
        if not name.startswith("_") and not member.is_alias and not member.is_module
    )
    return sorted(own)


def _lines(path: str, member: griffe.Object | griffe.Alias) -> Iterator[str]:
    if isinstance(member, griffe.Alias):
        home = member.target_path.rpartition(".")[0]
        if home in PUBLIC:
            # What it is stands there already.
            yield f"{path} = {member.target_path}"
        else:
            yield from _lines(path, member.final_target)
    elif isinstance(member, griffe.Class):
        bases = ", ".join(str(base) for base in member.bases)
        yield f"class {path}({bases})"
        for name, inner in member.members.items():
            # Checks of a suite are found by pytest, and not called by anybody.
            public = not name.startswith(("_", "test_")) or name in ("__init__", "__call__")
            if public and not inner.is_alias:
                yield from _lines(f"{path}.{name}", inner)
    elif isinstance(member, griffe.Function):
        for overload in member.overloads or ():
            yield f"overload {path}{_signature(overload)}"
        yield f"def {path}{_signature(member)}"
    elif isinstance(member, griffe.Attribute):
        what = "property " if "property" in member.labels else ""
        value = member.value if not what else None
        line = f"{what}{path}" + (f": {member.annotation}" if member.annotation else "")
        yield line if value is None or len(str(value)) > 40 else f"{line} = {value}"


def _signature(function: griffe.Function) -> str:
    parts: list[str] = []
    for parameter in function.parameters:
        prefix = {"variadic positional": "*", "variadic keyword": "**"}
        kind = parameter.kind.value if parameter.kind else ""
        if kind == "keyword-only" and not any(part.startswith("*") for part in parts):
            parts.append("*")
        text = prefix.get(kind, "") + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and kind not in prefix:
            text += f" = {parameter.default}"
        parts.append(text)
    return f"({', '.join(parts)}) -> {function.returns}"


def _command(path: str, command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"command {path}"
    for parameter in command.params:
        names = parameter.opts if isinstance(parameter, click.Option) else [parameter.name]
        yield f"command {path} {' '.join(map(str, names))}"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                inner = click.Context(child, info_name=name, parent=context)
                yield from _command(f"{path} {name}", child, inner)


def snapshot() -> str:
    """The whole interface as text, one name a line."""
    return "\n".join([*library(), *command_line()]) + "\n"


def main() -> None:
    """Write the snapshot."""
    text = snapshot()
    SNAPSHOT.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(text.splitlines())} lines in {SNAPSHOT}\n")


if __name__ == "__main__":
    main()
