"""Checkpoints from GGUF files that the `gguf` package wrote."""

from __future__ import annotations

import os
import tracemalloc

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gemcore.errors import FormatError, GemError, UsageError
from gemcore.formats.gguf import gguf_name, hugging_face_name, load_gguf, unpermute_rows
from gemcore.formats.gguf_header import read_header
from gemcore.formats.mapping import map_file
from gemcore.models.config import expected_shapes


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_float_model_comes_back_exactly(
    write_gguf, tiny_config, make_weights, architecture, tied
):
    config = attrs.evolve(
        tiny_config, architecture=architecture, tied_head=tied, qkv_bias=architecture == "qwen2"
    )
    weights = make_weights(config)
    checkpoint = load_gguf(write_gguf(config, weights))
    read = checkpoint.config
    assert attrs.evolve(read, norm_epsilon=config.norm_epsilon) == config
    assert np.float32(read.norm_epsilon) == np.float32(config.norm_epsilon)
    assert list(checkpoint.tensors) == list(expected_shapes(config))
    for name, values in weights.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.name, tensor.shape, tensor.encoding) == (name, values.shape, "F32")
        np.testing.assert_array_equal(tensor.to_float32(), values)
    assert checkpoint.text.eos_token == "<s>"


def test_the_permutation_is_what_rope_needs():
    """Rotating neighbours in the file's order is rotating halves in the order that comes out."""
    random = np.random.default_rng(0)
    heads, width = 3, 8
    stored = random.standard_normal((heads * width, 5)).astype(np.float32)
    x = random.standard_normal(5).astype(np.float32)
    angles = random.standard_normal(width // 2)
    turn = np.exp(1j * angles)
    neighbours = (stored @ x).reshape(heads, width // 2, 2)
    interleaved = (neighbours[..., 0] + 1j * neighbours[..., 1]) * turn
    halves = (unpermute_rows(stored, heads) @ x).reshape(heads, 2, width // 2)
    rotated = (halves[:, 0] + 1j * halves[:, 1]) * turn
    np.testing.assert_allclose(rotated, interleaved, rtol=1e-6)


@pytest.mark.parametrize("encoding", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_stored_weights_decode_as_the_reference_package_does(
    write_gguf, tiny_config, make_weights, encoding
):
    import gguf

    kind = gguf.GGMLQuantizationType[encoding]
    weights = make_weights(tiny_config)
    checkpoint = load_gguf(write_gguf(tiny_config, weights, encoding=encoding))
    for name, values in weights.items():
        tensor = checkpoint.tensors[name]
        if values.ndim == 1:
            assert tensor.encoding == "F32"
            continue
        assert tensor.encoding == encoding
        stored = gguf.quants.quantize(values, kind)
        # Rows of queries and keys are moved whole, so what is stored is the same, bit for bit.
        np.testing.assert_array_equal(tensor.data.view(np.uint8), stored.view(np.uint8))
        np.testing.assert_array_equal(tensor.to_float32(), gguf.quants.dequantize(stored, kind))


def test_weights_stay_in_the_file(write_gguf, tiny_config, make_weights):
    config = attrs.evolve(tiny_config, hidden_size=256, vocabulary_size=4096, head_dim=64)
    path = write_gguf(config, make_weights(config))
    load_gguf(path)
    tracemalloc.start()
    checkpoint = load_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    data = checkpoint.tensors["model.embed_tokens.weight"].data
    assert data.nbytes == 4096 * 256 * 4
    assert peak < data.nbytes // 4
    assert not data.flags.owndata
    assert not data.flags.writeable


def test_licence_and_name(write_gguf, tiny_config, make_weights):
    path = write_gguf(tiny_config, make_weights(tiny_config), metadata={"general.license": "mit"})
    checkpoint = load_gguf(path)
    assert (checkpoint.name, checkpoint.licence) == ("tiny.gguf", "mit")
    checkpoint = load_gguf(path, name="mine", licence="Apache-2.0")
    assert (checkpoint.name, checkpoint.licence) == ("mine", "Apache-2.0")


def test_identity_is_the_files_sha256(write_gguf, tiny_config, make_weights):
    import hashlib

    path = write_gguf(tiny_config, make_weights(tiny_config))
    assert load_gguf(path).identity == hashlib.sha256(path.read_bytes()).hexdigest()


@given(st.sampled_from(["attn_q.weight", "attn_v.bias", "ffn_norm.weight"]), st.integers(0, 10**6))
def test_layer_names_go_both_ways(part, layer):
    name = f"blk.{layer}.{part}"
    assert hugging_face_name(name).startswith(f"model.layers.{layer}.")
    assert gguf_name(hugging_face_name(name)) == name


@pytest.mark.parametrize(
    "name", ["blk.01.attn_q.weight", "blk..attn_q.weight", "blk.x.attn_q.weight", "rope", "blk.²"]
)
def test_other_names_stay(name):
    assert hugging_face_name(name) == name
    assert gguf_name(name) == name


LLAMA = "llama."
UNSUPPORTED = {
    "another architecture": (
        {"general.architecture": "mamba"},
        "architecture 'mamba'; supported are llama, qwen2",
    ),
    "RoPE scaling": ({LLAMA + "rope.scaling.type": "yarn"}, r"RoPE scaling \(yarn"),
    "old RoPE scaling": ({LLAMA + "rope.scale_linear": 4.0}, r"RoPE scaling \(none, 4.0"),
    "partial RoPE": (
        {LLAMA + "rope.dimension_count": 8},
        "turns only 8 of 16 dimensions of a head",
    ),
    "experts": ({LLAMA + "expert_count": 8}, "mixture of experts"),
    "a sliding window": ({LLAMA + "attention.sliding_window": 64}, "sliding-window"),
    "a piece": ({"split.count": 3}, "one of 3 pieces"),
    "two widths": ({LLAMA + "attention.value_length": 8}, "keys and values of different widths"),
    "other heads by layer": (
        {LLAMA + "attention.head_count": [4, 2]},
        r"llama.attention.head_count = \[4, 2\]; it must be a whole number",
    ),
    "no layers": ({LLAMA + "block_count": 0}, "llama.block_count = 0; it must be"),
    "a million layers": ({LLAMA + "block_count": 10**6}, "claims 1000000 layers, but has only"),
    "a missing layer": (
        {LLAMA + "block_count": 1},
        "holds 9 tensors that its model has no use for.*blk.1",
    ),
    "odd key heads": (
        {LLAMA + "attention.head_count_kv": 3},
        r"query heads \(4\) must be a multiple",
    ),
    "other shapes": (
        {LLAMA + "feed_forward_length": 128},
        r"tensor blk.0.ffn_gate.weight has shape \[96, 64\].*asks for \[128, 64\]",
    ),
    "text for a number": ({LLAMA + "context_length": "long"}, "context_length = 'long'"),
    "a negative base": ({LLAMA + "rope.freq_base": -1.0}, "freq_base = -1.0; it must be a pos"),
    "an infinite base": ({LLAMA + "rope.freq_base": float("inf")}, "freq_base = inf"),
    "a base that is no number": ({LLAMA + "rope.freq_base": float("nan")}, "freq_base = nan"),
    "an unknown tokenizer": ({"tokenizer.ggml.model": "magic"}, "tokenizer model 'magic'"),
    "too many tokens": (
        {"tokenizer.ggml.tokens": [str(i) for i in range(13)]},
        "13 tokens, but embeddings for only 12",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_unsupported_is_refused(write_gguf, tiny_config, make_weights, case):
    changes, reason = UNSUPPORTED[case]
    # The writer keeps the last value of a key that is given twice.
    path = write_gguf(tiny_config, make_weights(tiny_config), metadata=changes)
    with pytest.raises(FormatError, match=reason) as caught:
        load_gguf(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("missing", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_missing_tensor_is_named(write_gguf, tiny_config, make_weights, missing):
    weights = make_weights(tiny_config)
    del weights[missing]
    # One tensor less than two layers need would be refused for their number.
    extra = {"surplus.weight": np.zeros(32, np.float32)}
    path = write_gguf(tiny_config, weights, extra=extra)
    with pytest.raises(FormatError, match=f"lacks 1 tensors of its model: {gguf_name(missing)}$"):
        load_gguf(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rope_freqs.weight", "RoPE scaling"),
        ("blk.0.attn_output.bias", "no use for.*: blk.0.attn_output.bias"),
        ("blk.7.ffn_up.weight", "no use for"),
    ],
)
def test_a_surplus_tensor_is_refused(write_gguf, tiny_config, make_weights, name, reason):
    extra = {name: np.zeros(32, np.float32)}
    path = write_gguf(tiny_config, make_weights(tiny_config), extra=extra)
    with pytest.raises(FormatError, match=reason):
        load_gguf(path)


def test_llama_with_biases_moves_them_too(write_gguf, tiny_config, make_weights):
    config = attrs.evolve(tiny_config, qkv_bias=True)
    weights = make_weights(config)
    checkpoint = load_gguf(write_gguf(config, weights))
    assert checkpoint.config.qkv_bias
    name = "model.layers.0.self_attn.k_proj.bias"
    np.testing.assert_array_equal(checkpoint.tensors[name].to_float32(), weights[name])


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_gguf(tmp_path / "absent.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(FormatError, match="is empty"):
        load_gguf(tmp_path / "empty.gguf")
    with pytest.raises(FormatError, match="not a regular file"):
        load_gguf(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.gguf")
        with pytest.raises(FormatError, match="not a regular file"):
            load_gguf(tmp_path / "pipe.gguf")


@pytest.fixture
def sound(write_gguf, tiny_config, make_weights):
    return write_gguf(tiny_config, make_weights(tiny_config), encoding="Q8_0")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(sound, share):
    data = sound.read_bytes()
    damaged = sound.with_name("truncated.gguf")
    damaged.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FormatError):
        load_gguf(damaged)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
    ),
    whole=st.booleans(),
)
@example(flips=[(0.5, 255)], whole=False)
def test_a_damaged_file_opens_or_is_refused(sound, flips, whole):
    data = bytearray(sound.read_bytes())
    end = len(data) if whole else read_header(map_file(sound), sound).tensors[0].offset
    for share, change in flips:
        data[int(end * share)] ^= change
    damaged = sound.with_name("damaged.gguf")
    damaged.write_bytes(data)
    try:
        checkpoint = load_gguf(damaged)
    except FormatError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message
        assert str(damaged) in message
        return
    for tensor in checkpoint.tensors.values():
        assert tensor.to_float32().shape == tensor.shape


def test_a_file_that_may_not_be_read(sound, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(GemError, match=r"cannot read .*Permission denied"):
        load_gguf(sound)
