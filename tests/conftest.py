"""Models that the whole suite uses: the default one, and a tiny one in every form."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

from gem_general.none import GeneralPath
from gem_host.target import HostTarget
from gem_models.pypi import MODELS, ensure_model
from gem_uniform.quantizer import q4a_g32
from gemcore.build import BuildParts, compile_bundle
from gemcore.bundle import Bundle
from gemcore.cli.display import StepDisplay
from gemcore.models.checkpoint import Checkpoint
from gemcore.session import Session
from gemcore.testing.tiny import CHAT_TEMPLATE, tiny_checkpoint, tiny_config

# A test must not fail because the machine is busy, and a build is judged on the same examples twice.
settings.register_profile("gem", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("gem")


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model's GGUF file, fetched into the user's cache where it is not there."""
    with StepDisplay() as display:
        return ensure_model("smollm2-135m", MODELS["smollm2-135m"], progress=display.download)


@pytest.fixture(scope="session")
def tiny() -> Checkpoint:
    """A random model of two layers; wider than it must be, so that every scheme fits."""
    return tiny_checkpoint(tiny_config(context_length=256))


@pytest.fixture(scope="session")
def tiny_parts() -> BuildParts:
    """The plugins of an ordinary build."""
    return BuildParts(
        router=GeneralPath(),
        quantizer=q4a_g32(head="q8-g32"),
        target=HostTarget(),
        names={"router": "none", "quantizer": "q4a-g32", "target": "host"},
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny, tiny_parts, tmp_path_factory) -> Bundle:
    """The tiny model, compiled."""
    return compile_bundle(tiny, tiny_parts, tmp_path_factory.mktemp("bundles") / "tiny.gem")


@pytest.fixture
def tiny_session(tiny_bundle) -> Session:
    """A fresh session of the tiny model."""
    return open_tiny(tiny_bundle)


def open_tiny(bundle: Bundle, **options) -> Session:
    from gemcore.api import open_session

    return open_session(bundle.folder, **options)


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """The tiny model as a Hugging Face folder, written by the `safetensors` library."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    config = tiny.config
    values = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_text(tiny.text.tokenizer_json)
    text = {"chat_template": CHAT_TEMPLATE, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(text))
    weights = {name: tensor.to_float32() for name, tensor in tiny.tensors.items()}
    save_file(weights, folder / "model.safetensors")
    return folder
