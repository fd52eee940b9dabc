"""Checkpoints from Hugging Face folders: config.json, safetensors and a tokenizer.

Weights in other forms are refused: the older ones are pickles, and unpickling runs code.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from gemcore.cache import remembered_digest
from gemcore.errors import FormatError, UsageError
from gemcore.formats.encodings import decoder_of, view_of
from gemcore.formats.huggingface_config import config_from_json
from gemcore.formats.json_file import read_object
from gemcore.formats.lazy_tensors import LazyTensors, check_shapes, shorten
from gemcore.formats.mapping import map_file
from gemcore.formats.safetensors_header import (
    SafeTensor,
    read_safetensors_header,
    supported_dtypes,
)
from gemcore.models.checkpoint import Checkpoint, StoredTensor
from gemcore.models.config import ModelConfig, expected_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors\Z")
# Norms, q, k, v, output, gate, up and down: what each layer needs at least.
_TENSORS_A_LAYER = 9
# What the tokenizer and the chat template come from; where present, part of the identity.
_TEXT_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


@attrs.frozen(eq=False)
class _Located:
    """A tensor and the mapped file that it lies in: uint8 `[bytes]`."""

    tensor: SafeTensor
    mapped: npt.NDArray[np.uint8]
    path: Path


def load_folder(folder: Path, *, name: str | None = None, licence: str | None = None) -> Checkpoint:
    """Open a Hugging Face folder as a checkpoint; the weights stay in their files until used.

    Args:
        folder: holds config.json, model.safetensors (or its index and parts) and tokenizer.json.
        name: what to call the model in reports; the folder's name where it is not given.
        licence: SPDX name, if known.

    Raises:
        UsageError: the folder or a file that must be in it is missing.
        FormatError: a file is malformed, or the model is of a kind that GEM cannot run.
        GemError: a file may not be read.
    """
    from gemcore.text.huggingface import text_data_from_folder

    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise UsageError(f"{folder} is not a Hugging Face model folder: it has no config.json")
    config = config_from_json(read_object(config_path), config_path)
    files = weight_files(folder)
    located = _useful(_locate(folder, files), config)
    if config.layers * _TENSORS_A_LAYER > len(located):
        raise FormatError(
            f"{config_path} claims {config.layers} layers, but the folder has only {len(located)} "
            "tensors"
        )
    expected = expected_shapes(config)
    check_shapes(
        str(folder), {name: entry.tensor.shape for name, entry in located.items()}, expected
    )
    _check_dtypes(located)
    return Checkpoint(
        name=name or folder.resolve().name,
        config=config,
        tensors=LazyTensors({tensor: partial(_stored, located[tensor]) for tensor in expected}),
        text=text_data_from_folder(folder),
        identity=_identity(folder, [config_path, *files]),
        licence=licence,
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, in order of their names.

    Raises:
        UsageError: there are none, or one that the index names is missing.
        FormatError: there are only pickles, or the index is malformed or names a file elsewhere.
    """
    if (folder / _INDEX).is_file():
        return [folder / name for name in sorted(set(_weight_map(folder).values()))]
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise FormatError(
            f"{folder} has its weights only as pickles ({shorten(pickles)}): GEM never unpickles, "
            "because that can run code; convert them to safetensors first"
        )
    raise UsageError(f"{folder} has no weights: neither {_WEIGHTS} nor {_INDEX}")


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / _INDEX
    entries = read_object(path).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise FormatError(f"{path} has no weight_map")
    for tensor, file in entries.items():
        # A plain name cannot leave the folder, whatever the platform's separators are.
        if not isinstance(file, str) or not _FILE_NAME.match(file):
            raise FormatError(
                f"{path} places tensor {tensor[:80]!r} in {file!r:.80}, which is not the name of a "
                "safetensors file in the same folder"
            )
    return entries


def _locate(folder: Path, files: list[Path]) -> dict[str, _Located]:
    located: dict[str, _Located] = {}
    for path in files:
        mapped = map_file(path)
        for tensor in read_safetensors_header(mapped, path):
            if tensor.name in located:
                other = located[tensor.name].path.name
                raise FormatError(f"tensor {tensor.name} is both in {other} and in {path.name}")
            located[tensor.name] = _Located(tensor, mapped, path)
    if (folder / _INDEX).is_file():
        for name, file in _weight_map(folder).items():
            if name not in located or located[name].path.name != file:
                raise FormatError(f"{folder / _INDEX} places tensor {name} in {file}: not so")
    return located


def _useful(located: Mapping[str, _Located], config: ModelConfig) -> dict[str, _Located]:
    """Leave out what transformers ignores too: RoPE tables, and the head of a tied model."""
    return {
        name: entry
        for name, entry in located.items()
        if not name.endswith(".rotary_emb.inv_freq")
        and not (config.tied_head and name == "lm_head.weight")
    }


def _check_dtypes(located: Mapping[str, _Located]) -> None:
    supported = supported_dtypes()
    for name, entry in located.items():
        if entry.tensor.dtype not in supported:
            raise FormatError(
                f"{entry.path}: tensor {name} has type {entry.tensor.dtype}; supported are "
                f"{', '.join(supported)}"
            )


def _stored(entry: _Located) -> StoredTensor:
    tensor = entry.tensor
    data: npt.NDArray[Any] = view_of(entry.mapped, tensor.offset, tensor.shape, tensor.dtype)
    return StoredTensor(
        name=tensor.name,
        shape=tensor.shape,
        encoding=tensor.dtype,
        data=data,
        decode=decoder_of(tensor.dtype),
    )


def _identity(folder: Path, files: list[Path]) -> str:
    """SHA-256 over the names and SHA-256s of all files that make the model what it is."""
    texts = [folder / name for name in _TEXT_FILES if (folder / name).is_file()]
    whole = hashlib.sha256()
    for path in sorted([*files, *texts], key=lambda path: path.name):
        whole.update(f"{path.name}\0{remembered_digest(path)}\n".encode())
    return whole.hexdigest()
