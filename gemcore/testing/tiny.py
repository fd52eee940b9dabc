"""A random model of a few thousand weights: all of GEM runs on it in an instant."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.formats.encodings import decode_floats
from gemcore.models.checkpoint import Checkpoint, StoredTensor, TextData
from gemcore.models.config import ModelConfig, expected_shapes

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Tokens 0, 1 and 2: end of text, start and end of a turn."""

FEWEST_TOKENS = len(SPECIAL_TOKENS) + 256
"""The special tokens and one token for each byte."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_config(**changes: Any) -> ModelConfig:
    """A Llama-family shape of two narrow layers, with any of its fields changed.

    >>> tiny_config(kv_heads=1).heads
    4
    """
    fields: dict[str, Any] = {
        "vocabulary_size": 270,
        "hidden_size": 64,
        "intermediate_size": 96,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "context_length": 128,
    }
    return ModelConfig(**(fields | changes))


def tiny_checkpoint(config: ModelConfig | None = None, seed: int = 0) -> Checkpoint:
    """A checkpoint of random float32 weights with a byte-level tokenizer.

    Args:
        config: the shape of the model; `tiny_config()` where it is not given.
        seed: the same seed gives the same weights.

    Returns:
        A checkpoint that holds every tensor of `expected_shapes(config)`, scaled so that the
        activations stay near one.

    Raises:
        UsageError: the vocabulary is too small for the special tokens and one token a byte.
    """
    config = config if config is not None else tiny_config()
    if config.vocabulary_size < FEWEST_TOKENS:
        raise UsageError(
            f"a tiny checkpoint needs a vocabulary of at least {FEWEST_TOKENS} tokens, "
            f"not {config.vocabulary_size}"
        )
    generator = np.random.default_rng(seed)
    tensors = {
        name: _stored(name, _random_values(name, shape, generator))
        for name, shape in expected_shapes(config).items()
    }
    digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode())
    for tensor in tensors.values():
        digest.update(tensor.data.tobytes())
    return Checkpoint(
        name="tiny",
        config=config,
        tensors=tensors,
        text=TextData(
            tokenizer_json=byte_level_tokenizer(config.vocabulary_size),
            chat_template=CHAT_TEMPLATE,
            bos_token=SPECIAL_TOKENS[0],
            eos_token=SPECIAL_TOKENS[0],
            stop_token_ids=(0, 2),
        ),
        identity=digest.hexdigest(),
        licence="Apache-2.0",
    )


def byte_level_tokenizer(vocabulary_size: int) -> str:
    """A `tokenizers` file: `SPECIAL_TOKENS`, then a token for each byte, then pairs of letters.

    The vocabulary may be larger than the pairs need; tokens past the last pair have no text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    merges = []
    for first in "etaoin":
        for second in "rnstdl":
            if len(vocabulary) < vocabulary_size:
                merges.append((first, second))
                vocabulary[first + second] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return str(tokenizer.to_str())


def _random_values(
    name: str, shape: tuple[int, ...], generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    values = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        return np.float32(1) + values / np.float32(10)
    if name.endswith(".bias") or "embed_tokens" in name:
        return values
    return values / np.float32(shape[-1]) ** np.float32(0.5)


def _stored(name: str, values: npt.NDArray[np.float32]) -> StoredTensor:
    return StoredTensor(
        name=name, shape=values.shape, encoding="F32", data=values, decode=decode_floats
    )
