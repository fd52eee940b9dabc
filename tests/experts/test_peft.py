"""LoRA adapters, against what their formula says: W + scale * B @ A."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from gemcore.errors import FormatError, UsageError
from gemcore.experts.peft import CONFIG, TENSORS, is_peft_folder, peft_base_name, read_peft
from gemcore.models.config import expected_shapes
from gemcore.models.layout import weight_units
from gemcore.testing.tiny import tiny_config

MODEL = tiny_config()
# As peft 0.21 writes it, shortened.
SETTINGS = {
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "someone/tiny",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "lora_alpha": 6,
    "lora_bias": False,
    "lora_dropout": 0.1,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 3,
    "rank_pattern": {},
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def projections(layers, modules):
    return [
        name.removesuffix(".weight")
        for name in expected_shapes(MODEL)
        if any(f"layers.{i}." in name for i in layers) and name.split(".")[-2] in modules
    ]


def matrices(layers=(0, 1), modules=("q_proj", "v_proj", "down_proj"), rank=3, dtype="float32"):
    """Random A and B of some projections, by the names that peft gives them."""
    generator = np.random.default_rng(5)
    tensors = {}
    for name in projections(layers, modules):
        rows, columns = expected_shapes(MODEL)[f"{name}.weight"]
        for part, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            values = generator.standard_normal(shape) / 10
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = values.astype(dtype)
    return tensors


@pytest.fixture
def adapter(tmp_path):
    """Write an adapter's folder."""

    def write(tensors=None, **changes):
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(SETTINGS | changes))
        save_file(matrices() if tensors is None else tensors, folder / TENSORS)
        return folder

    return write


def read(folder, config=MODEL):
    return read_peft(folder, config, name="law", base="0" * 64, base_name="tiny")


def expected_delta(unit, tensors, scale):
    """`[out, in]` of a unit: each source's own delta, one below the other."""
    parts = []
    for source in unit.sources:
        name = f"base_model.model.{source.removesuffix('.weight')}.lora_"
        if f"{name}A.weight" in tensors:
            a, b = (tensors[f"{name}{part}.weight"].astype(np.float64) for part in "AB")
            parts.append(scale * b @ a)
        else:
            parts.append(np.zeros(expected_shapes(MODEL)[source]))
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("modules", "layers", "rank"),
    [
        (ALL, (0, 1), 9),
        (("q_proj", "v_proj"), (0, 1), 6),
        (("v_proj", "k_proj"), (1,), 6),
        (("gate_proj", "down_proj"), (1,), 3),
        (("up_proj", "gate_proj"), (0,), 6),
        (("o_proj",), (0,), 3),
    ],
)
@pytest.mark.parametrize("stabilized", [False, True])
def test_weights_with_the_delta(adapter, modules, layers, rank, stabilized):
    tensors = matrices(layers, modules)
    expert = read(adapter(tensors, target_modules=list(modules), use_rslora=stabilized))
    assert expert.card.rank == rank
    scale = 6 / math.sqrt(3) if stabilized else 2
    touched = []
    for unit in weight_units(MODEL):
        delta = expected_delta(unit, tensors, scale) if "layers" in unit.name else np.zeros(1)
        if not delta.any():
            assert f"{unit.name}.down" not in expert.tensors
            continue
        touched.append(unit.name)
        down, up = (expert.tensors[f"{unit.name}.{part}"].astype(float) for part in ("down", "up"))
        # Each factor is rounded to eleven bits.
        error = np.linalg.norm((down @ up).T - delta) / np.linalg.norm(delta)
        assert error < 2**-10
    assert list(expert.card.units) == touched


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_type_of_tensor(adapter, dtype):
    tensors = matrices()
    if dtype == "bfloat16":
        import torch
        from safetensors.torch import save_file as save_torch

        halved = {name: torch.from_numpy(values).bfloat16() for name, values in tensors.items()}
        folder = adapter()
        save_torch(halved, folder / TENSORS)
        tensors = {name: values.float().numpy() for name, values in halved.items()}
    else:
        tensors = matrices(dtype=dtype)
        folder = adapter(tensors)
    expert = read(folder)
    unit = weight_units(MODEL)[1]
    down, up = (expert.tensors[f"{unit.name}.{part}"].astype(float) for part in ("down", "up"))
    delta = expected_delta(unit, tensors, 2)
    np.testing.assert_allclose((down @ up).T, delta, atol=2**-9 * np.abs(delta).max())


def test_the_card_says_what_is_known(adapter):
    folder = adapter()
    assert is_peft_folder(folder)
    assert not is_peft_folder(folder.parent)
    assert peft_base_name(folder) == "someone/tiny"
    card = read(folder).card
    assert (card.name, card.domain, card.licence) == ("law", "law", "unknown")
    assert card.summary == "LoRA adapter adapter"
    assert (card.base, card.base_name, card.sha256) == ("0" * 64, "tiny", "")


def test_names_without_the_prefix_are_read_too(adapter):
    tensors = {name.removeprefix("base_model.model."): v for name, v in matrices().items()}
    assert read(adapter(tensors)).digest == read(adapter()).digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
        ({"peft_type": None}, "its peft_type is None"),
        ({"use_dora": True}, "it sets 'use_dora', which GEM cannot honour"),
        ({"bias": "lora_only"}, "its bias is 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "it sets 'modules_to_save'"),
        ({"lora_bias": True}, "it sets 'lora_bias'"),
        ({"fan_in_fan_out": True}, "it sets 'fan_in_fan_out'"),
        ({"layer_replication": [[0, 2]]}, "it sets 'layer_replication'"),
        ({"something_new": True}, "it sets 'something_new'"),
        ({"init_lora_weights": "pissa_niter_4"}, "its init_lora_weights is 'pissa_niter_4'"),
        ({"rank_pattern": {"q_proj": 4}}, "it sets rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "it sets alpha_pattern"),
        ({"r": 0}, "its r is 0"),
        ({"r": "3"}, "its r is '3'"),
        ({"r": True}, "its r is True"),
        ({"r": 10**9}, "its r is 1000000000"),
        ({"lora_alpha": 0}, "its lora_alpha is 0"),
        ({"lora_alpha": None}, "its lora_alpha is None"),
        ({"lora_alpha": 1e300}, "its lora_alpha is 1e+300"),
        ({"use_rslora": "no"}, "its use_rslora is 'no'"),
        ({"r": 4}, "but r is 4"),
    ],
)
def test_adapters_that_are_more_than_plain_lora(adapter, changes, words):
    with pytest.raises(FormatError) as caught:
        read(adapter(**changes))
    assert words in str(caught.value)
    assert "cannot be used: " in str(caught.value)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("change", "words", "kind"),
    [
        (lambda t: t.pop(f"{Q}B.weight"), "it lacks lora_B of model.layers.0.", FormatError),
        (lambda t: t.clear(), "it holds no tensors", FormatError),
        (lambda t: t.update({"x.weight": np.ones(3)}), "has type F64", FormatError),
        (
            lambda t: t.update({"base_model.model.lm_head.lora_A.weight": t[f"{Q}A.weight"]}),
            "tensor 'base_model.model.lm_head.lora_A.weight' is not",
            FormatError,
        ),
        (
            lambda t: t.update({f"{Q}magnitude_vector": t[f"{Q}A.weight"]}),
            "q_proj.lora_magnitude_vector' is not",
            FormatError,
        ),
        (
            lambda t: t.update({f"{Q}A.weight": np.full((3, 64), np.nan, dtype=np.float32)}),
            f"tensor '{Q}A.weight' holds NaN",
            FormatError,
        ),
        (
            lambda t: t.update({f"{Q}A.weight": np.ones((3, 63), dtype=np.float32)}),
            "shape [64, 63], but the weight has [64, 64]: the adapter is for another model",
            UsageError,
        ),
        (
            lambda t: t.update({f"{Q}A.weight": np.full((3, 64), 3e38, dtype=np.float32)}),
            "too large for float16",
            FormatError,
        ),
    ],
)
def test_tensors_that_do_not_fit(adapter, change, words, kind):
    tensors = matrices()
    change(tensors)
    with pytest.raises(kind) as caught:
        read(adapter(tensors))
    assert words in str(caught.value)


def test_an_adapter_of_a_model_with_more_layers(adapter):
    with pytest.raises(UsageError, match="base model 'tiny', which has 1 layers and no projection"):
        read(adapter(), tiny_config(layers=1))


def test_files_that_are_missing(adapter, tmp_path):
    folder = adapter()
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    with pytest.raises(FormatError, match="never unpickles"):
        read(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(UsageError, match="no such file"):
        read(folder)
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path)
