"""A trained decoder as a Hugging Face folder, which every tool opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.experts.files import new_folder
from gemcore.formats.huggingface_config import config_to_json
from gemcore.formats.safetensors_writer import write_safetensors
from gemcore.models.layout import norm_sources, weight_units
from gemcore.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemcore.models.checkpoint import Checkpoint, TextData
    from gemcore.models.config import ModelConfig
    from gemcore.models.decoder import Decoder

REPORT = "training.json"
"""How the model was made, beside its files."""


def write_model(
    folder: Path, checkpoint: Checkpoint, decoder: Decoder, report: Mapping[str, Any]
) -> None:
    """Write `config.json`, `model.safetensors` (float16), the tokenizer, and `training.json`.

    Args:
        folder: its new folder, which appears when it is whole.
        checkpoint: what the decoder was made from: shape and text data are its.
        decoder: dense float32 weights.
        report: how it was made.

    Raises:
        UsageError: the folder exists.
        GemError: it cannot be written, or a weight does not fit into float16.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already: choose another name, or remove it first")
    with new_folder(folder) as temporary:
        write_safetensors(temporary / "model.safetensors", _tensors(checkpoint, decoder))
        files: dict[str, Any] = {
            "config.json": _config(checkpoint.config, checkpoint.text),
            "tokenizer_config.json": _tokenizer_config(checkpoint.text),
            "generation_config.json": _generation_config(checkpoint.text),
            REPORT: dict(report),
        }
        for name, values in files.items():
            (temporary / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        (temporary / "tokenizer.json").write_text(checkpoint.text.tokenizer_json, encoding="utf-8")


def _tensors(checkpoint: Checkpoint, decoder: Decoder) -> dict[str, npt.NDArray[np.float16]]:
    parameters = {name: value.detach().numpy() for name, value in decoder.named_parameters()}
    found: dict[str, npt.NDArray[np.float16]] = {}
    for unit in weight_units(checkpoint.config):
        for end, sources in (("weight", unit.sources), ("bias", unit.bias_sources)):
            start = 0
            for source in sources:
                rows = checkpoint.tensors[source].shape[0]
                part = parameters[f"{unit.name}.{end}"][start : start + rows]
                found[source] = _half(part, source)
                start += rows
    for ours, theirs in norm_sources(checkpoint.config).items():
        found[theirs] = _half(parameters[ours], theirs)
    return found


def _half(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise UsageError(
            f"{name} has values that float16 cannot hold after this training: try a smaller "
            "--learning-rate"
        )
    return half


def _config(config: ModelConfig, text: TextData) -> dict[str, Any]:
    values = {**config_to_json(config), "torch_dtype": "float16"}
    tokenizer = Tokenizer.from_json(text.tokenizer_json)
    for name, token in (("bos_token_id", text.bos_token), ("eos_token_id", text.eos_token)):
        number = tokenizer.token_id(token) if token else None
        if number is not None:
            values[name] = number
    return values


def _tokenizer_config(text: TextData) -> dict[str, Any]:
    values = {
        "bos_token": text.bos_token,
        "eos_token": text.eos_token,
        "chat_template": text.chat_template,
        "add_bos_token": text.add_bos,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {name: value for name, value in values.items() if value is not None}


def _generation_config(text: TextData) -> dict[str, Any]:
    return {"eos_token_id": list(text.stop_token_ids)} if text.stop_token_ids else {}
