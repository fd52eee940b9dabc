"""Where sets of experts are: those that plugins bring, the user's own, and folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from gemcore.errors import PluginError, UsageError, unknown_name
from gemcore.experts.card import is_expert_name
from gemcore.experts.expert_set import ExpertSet, expert_folders, read_set
from gemcore.experts.files import new_folder

if TYPE_CHECKING:
    from gemcore.plugins import PluginHost

KIND = "expert set"


@attrs.frozen(kw_only=True)
class SetPlace:
    """A set of experts that was found, and not opened.

    Attributes:
        name: what the user types: the name of a set, or a folder.
        folder: where it lies.
        own_folder: where the user's own copy of a set that a plugin brings is to be; None where
            `folder` is the user's own already.
    """

    name: str
    folder: Path
    own_folder: Path | None = None


def user_sets_folder() -> Path:
    """The folder of the user's own sets: `GEM_EXPERTS`, or the platform's place for data.

    It need not exist.
    """
    chosen = os.environ.get("GEM_EXPERTS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("gemcore", appauthor=False) / "experts"


def set_names(host: PluginHost) -> tuple[str, ...]:
    """Names of all sets, of plugins and of the user."""
    offered = {selection.name for selection in host.selections(KIND)}
    return tuple(sorted(offered | set(_user_names())))


def find_set(choice: str | None, host: PluginHost) -> SetPlace:
    """Find a set without opening it.

    Args:
        choice: the name of a set or a folder; None for the only set that plugins bring, or else the
            only one there is.
        host: the plugins.

    Raises:
        UsageError: there is no such set, or several and no choice.
        PluginError: the plugin that brings it is broken.
    """
    choice = choice if choice is not None else _default(host)
    own = user_sets_folder() / choice.replace("/", "@")
    if choice in {selection.name for selection in host.selections(KIND)}:
        if expert_folders(own):
            return SetPlace(name=choice, folder=own)
        return SetPlace(name=choice, folder=_shipped(choice, host), own_folder=own)
    if choice in _user_names():
        return SetPlace(name=choice, folder=own)
    folder = Path(choice).expanduser()
    if folder.is_dir():
        return SetPlace(name=choice, folder=folder)
    if looks_like_folder(choice):
        raise UsageError(f"no expert set at {folder}: there is no such folder")
    if host.selections(KIND):
        # Its message also says which plugins failed or are disabled.
        host.select(KIND, choice)
    raise unknown_name(KIND, choice, set_names(host))


def open_set(choice: str | None, host: PluginHost) -> ExpertSet:
    """Find a set and open all of its experts; see `find_set` and `read_set` for errors."""
    return read_set(find_set(choice, host).folder)


def own_copy(place: SetPlace) -> SetPlace:
    """The user's own copy of a set, made where it is missing: that is what may be changed.

    Files keep their times. Raises GemError where the copy cannot be made.
    """
    if place.own_folder is None:
        return place
    with new_folder(place.own_folder) as temporary:
        shutil.copytree(
            place.folder,
            temporary,
            ignore=shutil.ignore_patterns(".*", "__pycache__"),
            dirs_exist_ok=True,
        )
    return SetPlace(name=place.name, folder=place.own_folder)


def looks_like_folder(choice: str) -> bool:
    """Whether `choice` can only mean a folder, there or not."""
    return choice.startswith((".", "~")) or os.sep in choice or "/" in choice


def router_files(folder: Path) -> dict[str, Path]:
    """The fitted routers of a set's folder, `router.<name>.safetensors`, by name."""
    found = sorted(folder.glob("router.*.safetensors"))
    return {path.name.removeprefix("router.").removesuffix(".safetensors"): path for path in found}


def _user_names() -> tuple[str, ...]:
    root = user_sets_folder()
    if not root.is_dir():
        return ()
    names = sorted(path.name for path in root.iterdir() if is_expert_name(path.name))
    return tuple(name for name in names if expert_folders(root / name))


def _default(host: PluginHost) -> str:
    for names in ([selection.name for selection in host.selections(KIND)], _user_names()):
        if len(names) == 1:
            return names[0]
    names_found = set_names(host)
    if not names_found:
        raise UsageError("there are no experts: no plugin brings any; name a folder with --experts")
    raise UsageError(f"say which experts, with --experts: {', '.join(names_found)}, or a folder")


def _shipped(name: str, host: PluginHost) -> Path:
    selection = host.select(KIND, name)
    folder = host.create(selection)
    if not isinstance(folder, Path):
        raise PluginError(
            f"{KIND} '{name}' of {selection.origin} cannot be used: its loader returns "
            f"{type(folder).__name__}, not the Path of a folder"
        )
    return folder
