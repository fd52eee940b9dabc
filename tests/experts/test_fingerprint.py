"""The fingerprint: one a model, whatever its encoding."""

from __future__ import annotations

import hashlib
import struct

import attrs
import pytest

from gemcore.experts.fingerprint import base_fingerprint
from gemcore.formats.huggingface import load_folder
from gemcore.models.config import ModelConfig
from gemcore.testing.tiny import tiny_checkpoint, tiny_config


def by_hand(checkpoint):
    """The definition, written out."""
    config = checkpoint.config
    data = struct.pack("<6q", config.hidden_size, config.layers, config.heads, config.kv_heads,
                       config.intermediate_size, config.vocabulary_size)  # fmt: skip
    names = ["model.norm.weight"]
    for i in range(config.layers):
        names.append(f"model.layers.{i}.input_layernorm.weight")
        names.append(f"model.layers.{i}.post_attention_layernorm.weight")
    for name in names:
        values = checkpoint.tensors[name].to_float32()
        data += struct.pack(f"<{values.size}f", *values.tolist())
    return hashlib.sha256(data).hexdigest()


def test_it_is_what_its_definition_says(tiny):
    assert base_fingerprint(tiny) == by_hand(tiny)


def test_weights_do_not_matter_and_norms_do(tiny):
    def changed(name):
        tensor = tiny.tensors[name]
        data = tensor.data.copy()
        data.flat[-1] += 1
        return attrs.evolve(tiny, tensors={**tiny.tensors, name: attrs.evolve(tensor, data=data)})

    same = base_fingerprint(tiny)
    assert base_fingerprint(changed("model.layers.0.mlp.down_proj.weight")) == same
    assert base_fingerprint(changed("model.embed_tokens.weight")) == same
    for name in ("model.norm.weight", "model.layers.1.post_attention_layernorm.weight"):
        assert base_fingerprint(changed(name)) != same


@pytest.mark.parametrize(
    "field",
    ["hidden_size", "layers", "heads", "kv_heads", "intermediate_size", "vocabulary_size"],
)
def test_every_number_of_the_shape_matters(tiny, field):
    values = tiny.config.to_json()
    # Heads must stay a multiple of key-value heads; 4 and 2 here.
    values[field] = {"kv_heads": 4, "heads": 8}.get(field, values[field] * 2)
    other = attrs.evolve(tiny, config=ModelConfig(**values))
    if field in ("layers", "hidden_size"):
        model = tiny_checkpoint(tiny_config(**{field: values[field], "context_length": 256}))
        assert base_fingerprint(model) != base_fingerprint(tiny)
    else:
        assert base_fingerprint(other) != base_fingerprint(tiny)


def test_a_folder_of_the_same_model_has_the_same(tiny, tiny_folder):
    assert base_fingerprint(load_folder(tiny_folder)) == base_fingerprint(tiny)
