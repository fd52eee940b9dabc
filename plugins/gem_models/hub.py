"""Models of the Hugging Face Hub, fetched with `huggingface_hub` into GEM's cache.

The first fetch pins the revision: later runs open what is there, without asking the network.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import attrs

from gemcore.cache import Progress, cache_folder, cache_root, explained, locked, write_atomically
from gemcore.errors import GemError, UsageError
from gemcore.models.sources import CachedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemcore.models.checkpoint import Checkpoint

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:/(?P<file>(?:{_PART}/)*{_PART}\.gguf))?\Z")
_PATTERNS = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer*.json",
    "chat_template*",
    "*.safetensors",
    "*.safetensors.index.json",
)


@attrs.frozen
class HubName:
    """What a user typed, taken apart.

    Attributes:
        repository: `owner/name`.
        file: path of a GGUF file in the repository, or None for a Hugging Face folder.
    """

    repository: str
    file: str | None


def parse_name(name: str) -> HubName | None:
    """Take apart OWNER/NAME or OWNER/NAME/FILE.gguf; None for anything else.

    >>> parse_name("owner/model/q4.gguf")
    HubName(repository='owner/model', file='q4.gguf')
    >>> parse_name("./model.gguf") is None
    True
    """
    match = _NAME.match(name)
    if match is None or ".." in name or match["repository"].endswith(".gguf"):
        return None
    return HubName(match["repository"], match["file"])


class HubSource:
    """Fetches models by their Hub id, and opens them from the cache."""

    def owns(self, name: str) -> bool:
        """Whether `name` has the form of a Hub id."""
        return parse_name(name) is not None

    def load(self, name: str, progress: Progress | None = None) -> Checkpoint:
        """Open a model of the Hub, after fetching it where it is not in the cache.

        Raises:
            GemError: the Hub cannot be reached or has no such model, or GEM cannot run it.
        """
        wanted = parse_name(name)
        if wanted is None:
            raise UsageError(f"'{name}' is not a Hub id: OWNER/NAME or OWNER/NAME/FILE.gguf")
        path = _remembered(name)
        if path is None:
            folder = cache_folder("hub")
            with locked(folder / _note_name(name)):
                path = _remembered(name) or _fetch(name, wanted, folder, progress)
        from gemcore.formats.gguf import load_gguf
        from gemcore.formats.huggingface import load_folder

        return load_gguf(path, name=name) if wanted.file else load_folder(path, name=name)

    def cached(self) -> Sequence[CachedModel]:
        """The models that were fetched completely."""
        found = []
        for note in sorted((cache_root() / "hub").glob("*.gem.json")):
            name = _read_note(note).get("name")
            path = _remembered(name) if isinstance(name, str) else None
            if path is not None and isinstance(name, str):
                found.append(CachedModel(name=name, path=path, bytes=_bytes(path), source="hub"))
        return found


def _fetch(name: str, wanted: HubName, folder: Path, progress: Progress | None) -> Path:
    """Download, then note that the model is complete and where it lies."""
    import huggingface_hub
    from huggingface_hub import errors

    bar = _progress_bar(progress)
    patterns = [wanted.file] if wanted.file else list(_PATTERNS)
    try:
        snapshot = Path(
            huggingface_hub.snapshot_download(
                wanted.repository, cache_dir=folder, allow_patterns=patterns, tqdm_class=bar
            )
        )
    except errors.GatedRepoError:
        raise GemError(
            f"{wanted.repository} asks for consent first: accept its terms on the Hugging Face "
            "Hub, then sign in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UsageError(
            f"no such file or model: there is no path '{name}' here, and no model "
            f"{wanted.repository} on the Hugging Face Hub that you may see"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise _unreachable(name, "no connection") from None
    except GemError:
        raise
    except OSError as error:
        if error.errno is not None and error.filename is not None:
            with explained(folder):
                raise
        raise _unreachable(name, _first_line(error)) from None
    except Exception as error:
        # The library's errors differ from version to version; none of them may reach a user raw.
        raise _unreachable(name, _first_line(error)) from None
    path = snapshot / wanted.file if wanted.file else snapshot
    if not path.exists():
        raise UsageError(f"the model {wanted.repository} has no file {wanted.file}")
    with write_atomically(folder / _note_name(name)) as file:
        file.write(json.dumps({"name": name, "path": str(path.relative_to(folder))}).encode())
    return path


def _unreachable(name: str, reason: str) -> GemError:
    return GemError(
        f"there is no path '{name}' here, and the Hugging Face Hub cannot be reached to fetch a "
        f"model of that name ({reason}); with a connection, or with a path, it will work"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _note_name(name: str) -> str:
    return f"{name.replace('/', '--')}.gem.json"


def _read_note(note: Path) -> dict[str, Any]:
    try:
        entry = json.loads(note.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _remembered(name: str) -> Path | None:
    """Where a model that was fetched completely lies, if it still does."""
    folder = cache_root() / "hub"
    relative = _read_note(folder / _note_name(name)).get("path")
    if not isinstance(relative, str) or ".." in PurePosixPath(relative).parts:
        return None
    path = folder / relative
    return path if path.exists() else None


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _progress_bar(progress: Progress | None) -> Any:
    """A tqdm class that draws nothing and tells `progress` of the bytes."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Reporter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts_bytes = kwargs.get("unit") == "B"
            # huggingface_hub names its bars, which plain tqdm does not know.
            kwargs.pop("name", None)
            self.done = int(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})
            self.total = kwargs.get("total")

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            if self.counts_bytes and progress and self.total and self.done:
                progress(min(self.done, int(self.total)), int(self.total))

    return Reporter
