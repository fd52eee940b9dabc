"""GEM's model, made into what the peers read. Runs in GEM's environment."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer_comparison.records import Model

if TYPE_CHECKING:
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.config import ModelConfig


def export_model(name: str, work: Path) -> Model:
    """Write the model as a Hugging Face folder in float32, unless it is there already.

    Every weight is what the model's own file says, dequantized: no peer starts from better or worse
    weights than GEM does. Returns the model as the peers are told of it.

    Raises:
        GemError: GEM does not know the model, or cannot read it.
    """
    from gemcore.models.sources import load_checkpoint, owning_source
    from gemcore.plugins import get_host

    host = get_host()
    checkpoint = load_checkpoint(name, host)
    _, source = owning_source(name, host)
    place = work / checkpoint.identity[:16]
    folder = place / "float32"
    if not folder.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".float32-", dir=place))
        try:
            _write_folder(checkpoint, temporary)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return Model(
        name=name,
        identity=checkpoint.identity,
        vocabulary_size=checkpoint.config.vocabulary_size,
        context_length=checkpoint.config.context_length,
        folder=folder,
        gguf=_gguf_file(name, source),
        work=place,
    )


def tokenize(name: str, texts: Path, limit: int | None) -> list[list[int]]:
    """Token ids of each text of a file that `gem eval perplexity --text` reads.

    Raises:
        GemError: the file or the model cannot be read.
    """
    from gemcore.cli.evaluate import read_texts
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host
    from gemcore.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_text_data(load_checkpoint(name, get_host()).text)
    return [tokenizer.encode_prompt(text) for text in read_texts(texts, limit)]


def folder_config(config: ModelConfig, stop_token_ids: Sequence[int] = ()) -> dict[str, Any]:
    """The `config.json` of a Hugging Face folder that describes the same model."""
    from gemcore.formats.huggingface_config import config_to_json

    more = {"torch_dtype": "float32", "eos_token_id": list(stop_token_ids) or None}
    return {**config_to_json(config), **more}


def _write_folder(checkpoint: Checkpoint, folder: Path) -> None:
    from safetensors.numpy import save_file

    values = folder_config(checkpoint.config, checkpoint.text.stop_token_ids)
    (folder / "config.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    (folder / "tokenizer.json").write_text(checkpoint.text.tokenizer_json, encoding="utf-8")
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": checkpoint.text.bos_token,
        "eos_token": checkpoint.text.eos_token,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
    weights = {name: tensor.to_float32() for name, tensor in checkpoint.tensors.items()}
    # transformers refuses a file that does not say which framework it is for.
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _gguf_file(name: str, source: Any) -> Path | None:
    """The file of a model that is a GGUF file."""
    cached = source.cached() if hasattr(source, "cached") else ()
    paths: list[Path] = [model.path for model in cached if model.name == name]
    for path in [Path(name).expanduser(), *paths]:
        if path.is_file():
            return path.absolute()
    return None
