"""The tiny model as a folder that `--model` takes, written by the `safetensors` library."""

from __future__ import annotations

import json
from pathlib import Path

from gemcore.cache import write_atomically
from gemcore.formats.huggingface_config import config_to_json
from gemcore.models.checkpoint import Checkpoint


def write_tiny_model(folder: Path, checkpoint: Checkpoint | None = None) -> Path:
    """Write a tiny model as a Hugging Face folder, for `gem run --model`.

    Args:
        folder: made where it is not there.
        checkpoint: the model; `material.checkpoint()`, which the suites use, if not given.

    Returns:
        The folder.
    """
    from safetensors.numpy import save

    if checkpoint is None:
        from gemcore.testing import material

        checkpoint = material.checkpoint()
    text = {"chat_template": checkpoint.text.chat_template, "eos_token": "<|im_end|>"}
    weights = {name: tensor.to_float32() for name, tensor in checkpoint.tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", json.dumps(config_to_json(checkpoint.config), indent=1).encode()),
        ("tokenizer.json", checkpoint.text.tokenizer_json.encode()),
        ("tokenizer_config.json", json.dumps(text, indent=1).encode()),
        ("model.safetensors", save(weights)),
    ):
        with write_atomically(folder / name) as file:
            file.write(content)
    return folder
