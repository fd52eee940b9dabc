"""Small models in files, made by the formats' own reference writers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemcore.formats.gguf import gguf_name
from gemcore.models.config import ModelConfig, expected_shapes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GEM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return ModelConfig(
        vocabulary_size=12,
        hidden_size=64,
        intermediate_size=96,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        context_length=128,
    )


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to queries and keys (`LlamaModel.permute`)."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 weights by Hugging Face name."""
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in expected_shapes(config).items()
    }


@pytest.fixture(scope="session")
def make_weights() -> Callable[..., dict[str, np.ndarray]]:
    return random_weights


@pytest.fixture
def write_gguf(tmp_path) -> Callable[..., Path]:
    """Write a GGUF file with `gguf.GGUFWriter`, as llama.cpp's converter would."""
    import gguf

    def write(
        config: ModelConfig,
        weights: dict[str, np.ndarray],
        *,
        encoding: str = "F32",
        metadata: dict[str, Any] | None = None,
        extra: dict[str, np.ndarray] | None = None,
        name: str = "tiny.gguf",
    ) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, config.architecture)
        writer.add_block_count(config.layers)
        writer.add_context_length(config.context_length)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.heads)
        writer.add_head_count_kv(config.kv_heads)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_layer_norm_rms_eps(config.norm_epsilon)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(["<s>", *"abcdefghi", "ab", "cd"])
        writer.add_token_types([3] + [1] * 11)
        writer.add_token_merges(["a b", "c d"])
        writer.add_eos_token_id(0)
        for key, value in (metadata or {}).items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_array(key, value)
        kind = gguf.GGMLQuantizationType[encoding]
        for tensor, values in {**weights, **(extra or {})}.items():
            stored = values
            if config.architecture == "llama" and ".q_proj." in tensor:
                stored = permute(values, config.heads)
            elif config.architecture == "llama" and ".k_proj." in tensor:
                stored = permute(values, config.kv_heads)
            name_in_file = gguf_name(tensor)
            if encoding == "F32" or values.ndim == 1:
                writer.add_tensor(name_in_file, stored)
            else:
                writer.add_tensor(name_in_file, gguf.quants.quantize(stored, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def write_folder(tmp_path) -> Callable[..., Path]:
    """Write a Hugging Face folder with the `safetensors` package."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    def write(
        config: ModelConfig,
        weights: dict[str, np.ndarray],
        *,
        changes: dict[str, Any] | None = None,
        parts: int = 1,
    ) -> Path:
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
        values = {
            "model_type": config.architecture,
            "architectures": [architecture[config.architecture]],
            "vocab_size": config.vocabulary_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "max_position_embeddings": config.context_length,
            "rms_norm_eps": config.norm_epsilon,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.tied_head,
            "hidden_act": "silu",
            **(changes or {}),
        }
        (folder / "config.json").write_text(json.dumps(values))
        vocabulary = {token: i for i, token in enumerate(["<s>", *"abcdefghi", "ab", "cd"])}
        tokenizer = Tokenizer(BPE(vocabulary, [("a", "b"), ("c", "d")]))
        (folder / "tokenizer.json").write_text(tokenizer.to_str())
        if parts == 1:
            save_file(weights, folder / "model.safetensors")
            return folder
        weight_map = {}
        for part in range(parts):
            file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
            mine = {name: weights[name] for name in sorted(weights)[part::parts]}
            save_file(mine, folder / file)
            weight_map |= dict.fromkeys(mine, file)
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder

    return write
