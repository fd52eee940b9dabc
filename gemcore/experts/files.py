"""An expert's folder: `card.json` and `expert.safetensors`, checked when read, whole when written."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.cache import file_digest
from gemcore.errors import FormatError, GemError, UsageError
from gemcore.experts.card import ExpertCard
from gemcore.formats.encodings import view_of
from gemcore.formats.json_file import read_object
from gemcore.formats.lazy_tensors import shorten
from gemcore.formats.mapping import map_file
from gemcore.formats.safetensors_header import read_safetensors_header
from gemcore.formats.safetensors_writer import write_safetensors

CARD, TENSORS = "card.json", "expert.safetensors"

HalfTensors = Mapping[str, npt.NDArray[np.float16]]

_EXPONENT = np.uint16(0x7C00)
"""The exponent bits of a float16, all set in NaN and infinity."""


def _read_only(tensors: HalfTensors) -> HalfTensors:
    return MappingProxyType(dict(tensors))


@attrs.frozen(kw_only=True, eq=False)
class Expert:
    """A domain's low-rank deltas on the weights of one base model.

    Attributes:
        card: what it says of itself.
        tensors: for each unit `<unit>.down` float16 `[in, rank]` and `<unit>.up` float16
            `[rank, out]`, mapped where they come from a file. The delta of the unit's weight
            `[out, in]` is `(down @ up).T`.
        folder: where it was read from; None for one that was never written.
    """

    card: ExpertCard
    tensors: HalfTensors = attrs.field(repr=False, converter=_read_only)
    folder: Path | None = None

    def __attrs_post_init__(self) -> None:
        check_tensors(self.card, self.tensors, f"expert '{self.card.name}'")

    @property
    def bytes(self) -> int:
        """Size of the deltas."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the expert's file; for one that was never written, of its tensors."""
        if self.card.sha256:
            return self.card.sha256
        digest = hashlib.sha256()
        for name in tensor_names(self.card.units):
            digest.update(f"{name}\0{self.tensors[name].shape}\0".encode())
            digest.update(np.ascontiguousarray(self.tensors[name]).data)
        return digest.hexdigest()

    def unit_shape(self, unit: str) -> tuple[int, int]:
        """`(out, in)` of the weight that a unit's delta belongs to."""
        return self.tensors[f"{unit}.up"].shape[1], self.tensors[f"{unit}.down"].shape[0]


def tensor_names(units: Iterable[str]) -> list[str]:
    """Names of the tensors of `units`, in their order in a file."""
    return [f"{unit}.{part}" for unit in units for part in ("down", "up")]


def is_expert_folder(folder: Path) -> bool:
    """Whether `folder` holds an expert in GEM's own form, sound or not."""
    return (folder / CARD).is_file()


def read_card(folder: Path) -> ExpertCard:
    """Read an expert's card alone.

    Raises:
        UsageError: there is none.
        FormatError: it is malformed, or of a newer format.
    """
    path = folder / CARD
    if not path.is_file():
        raise UsageError(f"{folder} is no expert: there is no {CARD} in it")
    return ExpertCard.from_json(read_object(path), str(path))


def read_expert(folder: Path) -> Expert:
    """Open an expert's folder and check all of it; the tensors stay in their file.

    Raises:
        UsageError: there is no expert in `folder`.
        FormatError: the card or the tensors are malformed, truncated, not finite, not what the card
            vouches for, or of a newer format.
        GemError: a file cannot be read.
    """
    card = read_card(folder)
    path = folder / TENSORS
    if not path.is_file():
        raise FormatError(f"{folder} is no whole expert: there is no {TENSORS} in it")
    found = map_tensors(path, ("F16",))
    digest = file_digest(path)
    if digest != card.sha256:
        raise FormatError(
            f"{path} cannot be used: its SHA-256 is {digest[:12]}…, but its card vouches for "
            f"{card.sha256[:12]}…; it is damaged or was exchanged, so fetch it again"
        )
    try:
        return Expert(card=card, tensors=found, folder=folder)
    except FormatError as error:
        raise FormatError(f"{path} cannot be used: {error}") from None


def write_expert(
    folder: Path, card: ExpertCard, tensors: HalfTensors, *, replace: bool = False
) -> Expert:
    """Write an expert's folder, which appears only when it is whole.

    Args:
        folder: its new folder; folders above it are made.
        card: its `sha256` is filled in here.
        tensors: see `Expert`.
        replace: an expert that is there already gives way; anything else that is there never does.

    Returns:
        What was written, read back and mapped.

    Raises:
        UsageError: the folder exists.
        FormatError: the tensors are not those of the card, or not finite.
        GemError: it cannot be written.
    """
    check_tensors(card, tensors, f"expert '{card.name}'")
    if folder.exists() and not (replace and is_expert_folder(folder)):
        raise UsageError(f"{folder} exists already: choose another name, or remove it first")
    with new_folder(folder) as temporary:
        path = temporary / TENSORS
        write_safetensors(path, {name: tensors[name] for name in tensor_names(card.units)})
        whole = attrs.evolve(card, sha256=file_digest(path))
        text = json.dumps(whole.to_json(), indent=1, ensure_ascii=False)
        (temporary / CARD).write_text(text + "\n", encoding="utf-8")
        # Read before it appears, so that what appears is sound.
        read_expert(temporary)
    return read_expert(folder)


def map_tensors(path: Path, types: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Map a safetensors file: each tensor by name, as `gemcore.formats.encodings.view_of` gives it.

    Raises:
        FormatError: it is malformed, truncated or empty, or has a tensor that is not of `types`.
        GemError: it cannot be read.
    """
    mapped = map_file(path)
    found: dict[str, npt.NDArray[Any]] = {}
    for tensor in read_safetensors_header(mapped, path):
        if tensor.dtype not in types:
            raise FormatError(
                f"{path} cannot be used: tensor '{tensor.name}' has type {tensor.dtype}, not "
                f"{' or '.join(types)}"
            )
        found[tensor.name] = view_of(mapped, tensor.offset, tensor.shape, tensor.dtype)
    return found


def check_tensors(card: ExpertCard, tensors: HalfTensors, where: str) -> None:
    """Check that `tensors` are exactly those that `card` calls for, and finite.

    Raises:
        FormatError: with the first tensor that is not so.
    """
    expected = tensor_names(card.units)
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise FormatError(f"{where} lacks tensors of its card's units: {shorten(missing)}")
    surplus = sorted(set(tensors) - set(expected))
    if surplus:
        raise FormatError(f"{where} holds tensors of no unit of its card: {shorten(surplus)}")
    for name in expected:
        _check_tensor(name, tensors[name], card.rank, where)


def _check_tensor(name: str, tensor: npt.NDArray[Any], rank: int, where: str) -> None:
    if tensor.dtype != np.float16:
        raise FormatError(f"{where}: tensor '{name}' has type {tensor.dtype}, not float16")
    axis = 1 if name.endswith(".down") else 0
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise FormatError(f"{where}: tensor '{name}' has the impossible shape {list(tensor.shape)}")
    if tensor.shape[axis] != rank:
        form = "[in, rank]" if axis else "[rank, out]"
        raise FormatError(
            f"{where}: tensor '{name}' has shape {list(tensor.shape)}, {form}, but the card's rank is "
            f"{rank}"
        )
    if not all_finite(tensor):
        raise FormatError(f"{where}: tensor '{name}' holds NaN or infinite values")


def all_finite(values: npt.NDArray[np.float16]) -> bool:
    """Whether no float16 of `values` is NaN or infinite, by their bits, which is quick."""
    bits = np.ascontiguousarray(values).view(np.uint16)
    return not bool(np.any((bits & _EXPONENT) == _EXPONENT))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a temporary folder that becomes `folder` when the block ends, and vanishes if it fails.

    Raises:
        GemError: the place cannot be written.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            if folder.exists():
                remove_folder(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no reader ever sees a part of it.

    Raises:
        GemError: it cannot be removed.
    """
    with writing(folder):
        grave = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        try:
            folder.replace(grave / "old")
        finally:
            shutil.rmtree(grave, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the OSErrors of writing `path` into one sentence.

    Raises:
        GemError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            reason = "the folder is read-only for you; name another with --experts FOLDER"
        else:
            reason = error.strerror or str(error)
        raise GemError(f"cannot write {path}: {reason}") from error
