"""Which base model an expert belongs to, told from a few kilobytes of it."""

from __future__ import annotations

import hashlib

import numpy as np

from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import norm_sources


def base_fingerprint(checkpoint: Checkpoint) -> str:
    """Fingerprint of a model that is the same in every quantization of it.

    SHA-256 over the shape (hidden, layers, heads, key-value heads, intermediate, vocabulary, each as a
    little-endian int64) and all norm gains (float32, in the order of `norm_sources`). Norm gains are
    never quantized, and training a model in full moves them. What was fine-tuned without its norms, as
    with merged adapters, cannot be told from its base.

    Returns:
        64 hexadecimal digits. Only the norm gains are read, so it takes a few milliseconds.
    """
    config = checkpoint.config
    shape = (
        config.hidden_size,
        config.layers,
        config.heads,
        config.kv_heads,
        config.intermediate_size,
        config.vocabulary_size,
    )
    digest = hashlib.sha256(np.array(shape, dtype="<i8").tobytes())
    for source in norm_sources(config).values():
        digest.update(checkpoint.tensors[source].to_float32().astype("<f4").tobytes())
    return digest.hexdigest()
