"""Files of fitted routers: `router.<name>.safetensors` beside the experts they were fitted for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.cache import write_atomically
from gemcore.errors import FormatError, UsageError
from gemcore.experts.files import map_tensors
from gemcore.formats.json_file import parse_object

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet

FORMAT_VERSION = 1
METADATA_KEY = "router"

Floats = npt.NDArray[np.float32]

_FIELDS = {"format_version", "router", "base", "experts", "sha256", "settings"}


@attrs.frozen(kw_only=True, eq=False)
class FittedRouter:
    """What a router has learned.

    Attributes:
        router: name of the router.
        base: fingerprint of the base model whose hidden states it reads.
        experts: names of the experts it was fitted for, in the order of its weights.
        sha256: their digests, in the same order.
        settings: JSON values of the router's own.
        tensors: float32, by names of the router's own.
        digest: SHA-256 of the file; empty before it is written.
    """

    router: str
    base: str
    experts: tuple[str, ...]
    sha256: tuple[str, ...]
    settings: Mapping[str, Any]
    tensors: Mapping[str, Floats] = attrs.field(repr=False)
    digest: str = ""


def fitted_path(folder: Path, router: str) -> Path:
    """Where a set's folder holds the fitted file of a router."""
    return folder / f"router.{router}.safetensors"


def write_fitted(folder: Path, fitted: FittedRouter) -> Path:
    """Write a fitted router into a set's folder, whole or not at all.

    Raises:
        GemError: it cannot be written.
    """
    from safetensors.numpy import save

    header = {
        "format_version": FORMAT_VERSION,
        "router": fitted.router,
        "base": fitted.base,
        "experts": list(fitted.experts),
        "sha256": list(fitted.sha256),
        "settings": dict(fitted.settings),
    }
    tensors = {name: np.ascontiguousarray(t, np.float32) for name, t in fitted.tensors.items()}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    content = save(tensors, metadata={METADATA_KEY: text})
    path = fitted_path(folder, fitted.router)
    with write_atomically(path) as file:
        file.write(content)
    return path


def read_fitted(folder: Path, router: str) -> FittedRouter:
    """Read a fitted router.

    Raises:
        UsageError: there is none, with the command that makes one.
        FormatError: the file is malformed, of a newer format or of another router, or holds values
            that are not finite.
    """
    path = fitted_path(folder, router)
    if not path.is_file():
        raise UsageError(
            f"router '{router}' has not been fitted for the experts in {folder}: there is no "
            f"{path.name}; make it with gem experts fit-router --router {router} --experts {folder} "
            "--data DIR"
        )
    tensors = {name: np.array(t) for name, t in map_tensors(path, ("F32",)).items()}
    content = path.read_bytes()
    header = _header(content, path)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            _refuse(path, f"tensor '{name}' holds NaN or infinite values")
    if header["router"] != router:
        _refuse(path, f"it was fitted for router '{header['router']}', not for '{router}'")
    return FittedRouter(
        router=router,
        base=header["base"],
        experts=tuple(header["experts"]),
        sha256=tuple(header["sha256"]),
        settings=header["settings"],
        tensors=tensors,
        digest=hashlib.sha256(content).hexdigest(),
    )


def open_experts(choice: str | None) -> ExpertSet:
    """The set that the user named, or the default one; GemError where it cannot be had."""
    from gemcore.experts.library import open_set
    from gemcore.plugins import get_host

    return open_set(choice, get_host())


def read_fitted_for(experts: ExpertSet, router: str) -> tuple[ExpertSet, FittedRouter]:
    """The fitted router of a set, after the check that it was fitted for just these experts.

    Raises:
        UsageError: it was not, or there is none, or the set is in no folder.
        FormatError: the file is malformed.
    """
    if experts.folder is None:
        raise UsageError(f"router '{router}' needs a set of experts in a folder")
    fitted = read_fitted(experts.folder, router)
    check_experts(fitted, experts)
    return experts, fitted


def with_encoder(fitted: FittedRouter, folder: Path | None) -> FittedRouter:
    """A fitted router with the settings that were chosen for the encoder's prior in place of the others.

    Raises:
        UsageError: it was fitted without the encoder.
    """
    settings = fitted.settings.get("encoder")
    if not isinstance(settings, dict) or "encoder.weight" not in fitted.tensors:
        raise UsageError(
            f"{fitted_path(folder or Path(), fitted.router)} was fitted without the encoder: use "
            "prior=early, or fit the router again with gem experts fit-router --prior encoder"
        )
    return attrs.evolve(fitted, settings={**fitted.settings, **settings})


def _header(content: bytes, path: Path) -> dict[str, Any]:
    # Bounds and form of the file's own header were checked when the tensors were mapped.
    length = int.from_bytes(content[:8], "little")
    metadata = parse_object(content[8 : 8 + length], f"the header of {path}").get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        _refuse(path, "it is no fitted router: its metadata say nothing of one")
    header = parse_object(text.encode(), f"the metadata of {path}")
    version = header.get("format_version")
    if type(version) is not int or version < 1:
        _refuse(path, f"its format version is {version!r:.40}")
    if version > FORMAT_VERSION:
        _refuse(
            path,
            f"its format version is {version}, but this GEM reads {FORMAT_VERSION}: update GEM, or "
            "fit the router again",
        )
    if set(header) != _FIELDS:
        odd = sorted(set(header) ^ _FIELDS)[0]
        _refuse(path, f"its metadata must have exactly {', '.join(sorted(_FIELDS))}: see '{odd}'")
    names, digests = header["experts"], header["sha256"]
    if not (_texts(names) and _texts(digests) and len(names) == len(digests) == len(set(names))):
        _refuse(path, "its experts and their digests are not two lists of the same length")
    if not _texts([header["router"], header["base"]]) or not isinstance(header["settings"], dict):
        _refuse(path, "its metadata have fields of wrong types")
    return header


def _texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) for v in values)


def _refuse(path: Path, reason: str) -> NoReturn:
    raise FormatError(f"{path} cannot be used: {reason}")


def check_experts(fitted: FittedRouter, experts: ExpertSet) -> None:
    """Check that a router was fitted for just these experts.

    Raises:
        UsageError: it was not; the difference is named.
    """
    again = f"fit it again with gem experts fit-router --router {fitted.router} --data DIR"
    where = f"router '{fitted.router}' was fitted for other experts than those of {experts.title}"
    if fitted.base != experts.base:
        raise UsageError(
            f"router '{fitted.router}' was fitted for a base model with fingerprint "
            f"{fitted.base[:12]}…, but {experts.title} is for '{experts.base_name}' "
            f"({experts.base[:12]}…): {again}"
        )
    known = dict(zip(fitted.experts, fitted.sha256, strict=True))
    now = {expert.card.name: expert.digest for expert in experts.experts}
    differences = [f"'{name}' has joined" for name in now if name not in known]
    differences += [f"'{name}' has gone" for name in known if name not in now]
    differences += [f"'{n}' has changed" for n in now if n in known and now[n] != known[n]]
    if differences:
        raise UsageError(f"{where}: {', '.join(differences)}; {again}")
    if fitted.experts != experts.names:
        raise UsageError(
            f"{where}: their order was {', '.join(fitted.experts)} and is "
            f"{', '.join(experts.names)}; {again}"
        )


def tensor(
    fitted: FittedRouter, name: str, shape: tuple[int | None, ...], folder: Path | None
) -> Floats:
    """One tensor of a fitted router, its shape checked; None in `shape` stands for any size.

    Raises:
        FormatError: it is missing or has another shape.
    """
    path = fitted_path(folder or Path(), fitted.router)
    found = fitted.tensors.get(name)
    if found is None:
        raise FormatError(f"{path} cannot be used: it has no tensor '{name}'; fit the router again")
    fits = found.ndim == len(shape) and all(
        wanted is None or wanted == size for wanted, size in zip(shape, found.shape, strict=True)
    )
    if not fits or 0 in found.shape:
        wanted_shape = ", ".join("any" if size is None else str(size) for size in shape)
        raise FormatError(
            f"{path} cannot be used: tensor '{name}' has shape {list(found.shape)}, not "
            f"[{wanted_shape}]"
        )
    return found
