"""Checkpoints from Hugging Face folders that the `safetensors` package wrote."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest

from gemcore.errors import FormatError, UsageError
from gemcore.formats.huggingface import load_folder
from gemcore.formats.huggingface_config import config_from_json, config_to_json
from gemcore.models.config import expected_shapes


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_shape_that_is_written_is_read_again(tiny_config, architecture):
    config = attrs.evolve(
        tiny_config, architecture=architecture, tied_head=False, qkv_bias=architecture == "qwen2"
    )
    written = json.loads(json.dumps(config_to_json(config)))
    assert config_from_json(written, Path("config.json")) == config


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_model_comes_back_exactly(write_folder, tiny_config, make_weights, architecture, parts):
    config = attrs.evolve(
        tiny_config, architecture=architecture, tied_head=False, qkv_bias=architecture == "qwen2"
    )
    weights = make_weights(config)
    folder = write_folder(config, weights, parts=parts)
    checkpoint = load_folder(folder)
    assert checkpoint.config == config
    assert checkpoint.name == "tiny"
    assert list(checkpoint.tensors) == list(expected_shapes(config))
    for name, values in weights.items():
        tensor = checkpoint.tensors[name]
        assert not tensor.data.flags.owndata
        assert (tensor.name, tensor.shape, tensor.encoding) == (name, values.shape, "F32")
        np.testing.assert_array_equal(tensor.to_float32(), values)


def test_transformers_own_folder(tmp_path):
    """The independent writer: what `save_pretrained` writes, in bfloat16, is what it holds."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    settings = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    model = transformers.LlamaForCausalLM(settings).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(Tokenizer(BPE({"a": 0}, [])).to_str())
    checkpoint = load_folder(tmp_path)
    assert checkpoint.config.rope_theta == 5000.0
    assert checkpoint.config.norm_epsilon == settings.rms_norm_eps
    assert checkpoint.config.tied_head
    state = model.state_dict()
    for name, tensor in checkpoint.tensors.items():
        assert tensor.encoding == "BF16"
        np.testing.assert_array_equal(tensor.to_float32(), state[name].float().numpy())


def test_what_transformers_ignores_is_ignored(write_folder, tiny_config, make_weights):
    weights = make_weights(tiny_config)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    checkpoint = load_folder(write_folder(tiny_config, weights))
    assert set(checkpoint.tensors) == set(expected_shapes(tiny_config))


def test_identity_covers_every_file(write_folder, tiny_config, make_weights):
    weights = make_weights(tiny_config)
    folder = write_folder(tiny_config, weights)
    first = load_folder(folder).identity
    assert load_folder(folder, name="other").identity == first
    (folder / "README.md").write_text("words")
    assert load_folder(folder).identity == first
    seen = {first}
    for name, text in (("chat_template.jinja", "{{ 1 }}"), ("tokenizer_config.json", "{}")):
        (folder / name).write_text(text)
        seen.add(load_folder(folder).identity)
    weights["model.norm.weight"][0] += 1
    write_folder(tiny_config, weights)
    seen.add(load_folder(folder).identity)
    assert len(seen) == 4
    assert all(len(identity) == 64 for identity in seen)


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_theta": 500.0}, 500.0),
        ({"rope_theta": None}, 10000.0),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 7.0}}, 7.0),
        (
            {"rope_theta": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7}},
            7.0,
        ),
        ({"rope_theta": 9.0, "rope_scaling": {"type": "default"}}, 9.0),
        ({"rope_theta": 9.0, "rope_scaling": None}, 9.0),
    ],
)
def test_old_and_new_ways_to_write_the_rope_base(
    write_folder, tiny_config, make_weights, changes, theta
):
    folder = write_folder(tiny_config, make_weights(tiny_config), changes=changes)
    assert load_folder(folder).config.rope_theta == theta


REFUSED = {
    "code": ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "code from the model's author"),
    "type": ({"model_type": "mamba"}, "of type 'mamba'; supported are llama, qwen2"),
    "type is a list": ({"model_type": ["llama"]}, r"of type \['llama'\]"),
    "no type": ({"model_type": None}, "of type None"),
    "class": ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; only 'silu' is supported"),
    "bias": ({"attention_bias": True}, "attention_bias = True; only False"),
    "feed-forward bias": ({"mlp_bias": True}, "mlp_bias = True"),
    "window": ({"use_sliding_window": True}, "use_sliding_window = True"),
    "quantization": ({"quantization_config": {"bits": 4}}, "quantization_config = .*not supp"),
    "old scaling": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "of type 'linear'"),
    "new scaling": ({"rope_scaling": {"rope_type": "llama3"}}, "of type 'llama3'"),
    "newest scaling": ({"rope_parameters": {"rope_type": "yarn"}}, "of type 'yarn'"),
    "scaling by layer": ({"rope_parameters": {"full": {"rope_theta": 1.0}}}, "different layers"),
    "partial RoPE": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial RoPE"),
    "scaling is a list": ({"rope_scaling": [1]}, "must be an object"),
    "base": ({"rope_theta": -1}, "rope_theta = -1; it must be a positive number"),
    "base is huge": ({"rope_theta": 10**400}, "rope_theta = 1000"),
    "epsilon is text": ({"rms_norm_eps": "1e-5"}, "rms_norm_eps = '1e-5'"),
    "size missing": ({"hidden_size": None}, "lacks hidden_size"),
    "size is zero": ({"hidden_size": 0}, "hidden_size = 0; it must be a whole number"),
    "size is huge": ({"vocab_size": 1 << 40}, "vocab_size = 1099511627776"),
    "size is true": ({"num_hidden_layers": True}, "num_hidden_layers = True"),
    "layers": ({"num_hidden_layers": 10**9}, "claims 1000000000 layers, but the folder has"),
    "heads": ({"num_key_value_heads": 3}, r"query heads \(4\) must be a multiple"),
    "head width": ({"head_dim": 15}, r"head width \(15\) must be even"),
    "tied": ({"tie_word_embeddings": "yes"}, "must be true or false"),
    "shape": ({"intermediate_size": 97}, r"gate_proj.weight has shape \[96, 64\].*\[97, 64\]"),
    "untied": ({"tie_word_embeddings": False}, "lacks 1 tensors of its model: lm_head.weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_unsupported_is_refused(write_folder, tiny_config, make_weights, case):
    changes, reason = REFUSED[case]
    folder = write_folder(tiny_config, make_weights(tiny_config), changes=changes)
    with pytest.raises(FormatError, match=reason) as caught:
        load_folder(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 500


def test_pickles_are_never_opened(write_folder, tiny_config, make_weights):
    folder = write_folder(tiny_config, make_weights(tiny_config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pytorch_model.bin\): GEM never unpickles"):
        load_folder(folder)


def test_missing_things_are_named(write_folder, tiny_config, make_weights, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        load_folder(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"has no config.json"):
        load_folder(tmp_path)
    folder = write_folder(tiny_config, make_weights(tiny_config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"neither model.safetensors nor"):
        load_folder(folder)


def test_other_types_of_numbers_are_refused(write_folder, tiny_config, make_weights):
    weights = make_weights(tiny_config)
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.float64)
    with pytest.raises(FormatError, match=r"model.norm.weight has type F64; supported are F32"):
        load_folder(write_folder(tiny_config, weights))


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.bin", 7, ""],
)
def test_an_index_stays_in_its_folder(write_folder, tiny_config, make_weights, name):
    folder = write_folder(tiny_config, make_weights(tiny_config), parts=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    with pytest.raises(FormatError, match="not the name of a safetensors file in the same folder"):
        load_folder(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_map(write_folder, tiny_config, make_weights, text):
    folder = write_folder(tiny_config, make_weights(tiny_config), parts=2)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FormatError, match=r"JSON object|no weight_map"):
        load_folder(folder)


def test_an_index_that_lies(write_folder, tiny_config, make_weights):
    folder = write_folder(tiny_config, make_weights(tiny_config), parts=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    place = index["weight_map"]["model.norm.weight"]
    index["weight_map"]["model.norm.weight"] = next(file for file in files if file != place)
    path.write_text(json.dumps(index))
    with pytest.raises(FormatError, match=r"places tensor model.norm.weight in .*: not so"):
        load_folder(folder)
    (folder / files[0]).unlink()
    with pytest.raises(UsageError, match="no such file"):
        load_folder(folder)


def test_a_tensor_in_two_files(write_folder, tiny_config, make_weights):
    weights = make_weights(tiny_config)
    folder = write_folder(tiny_config, weights, parts=2)
    from safetensors.numpy import load_file, save_file

    first, second = sorted(folder.glob("*.safetensors"))
    both = load_file(second) | dict([next(iter(load_file(first).items()))])
    save_file(both, second)
    with pytest.raises(FormatError, match="is both in"):
        load_folder(folder)
