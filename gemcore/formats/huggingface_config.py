"""From a Hugging Face `config.json` to a ModelConfig, with every value checked.

A configuration only chooses among what GEM has: nothing in it is imported or run.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from gemcore.errors import FormatError
from gemcore.models.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LARGEST = 1 << 31


@attrs.frozen
class Family:
    """What a model type implies where its configuration does not say.

    Attributes:
        architecture: the class that `architectures` names.
        qkv_bias: query, key and value projections have a bias.
        context_length: default of `max_position_embeddings`.
    """

    architecture: str
    qkv_bias: bool
    context_length: int


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family("LlamaForCausalLM", qkv_bias=False, context_length=2048),
        "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, context_length=32768),
    }
)
"""Supported values of `model_type`."""

# Settings that change what the model computes, and the only values that GEM computes.
_REQUIRED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_sliding_window": (False,),
        "partial_rotary_factor": (1, 1.0),
        "quantization_config": (),
    }
)


def config_from_json(values: Mapping[str, Any], path: Path) -> ModelConfig:
    """Read the shape of the model.

    Args:
        values: what `config.json` holds.
        path: that file, for messages.

    Raises:
        FormatError: the model is of another family, brings code of its own, or has a value that is
            missing, out of range or asks for something that GEM cannot do.
    """
    reader = _Values(values, path)
    family = _family(reader)
    for name, allowed in _REQUIRED.items():
        value = values.get(name)
        if value is not None and value not in allowed:
            wanted = f"; only {allowed[0]!r} is supported" if allowed else " is not supported"
            reader.fail(f"has {name} = {_short(value)}{wanted}")
    hidden = reader.integer("hidden_size")
    heads = reader.integer("num_attention_heads")
    head_width = hidden // heads if hidden % heads == 0 else None
    tied = values.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        reader.fail(f"has tie_word_embeddings = {_short(tied)}; it must be true or false")
    try:
        return ModelConfig(
            vocabulary_size=reader.integer("vocab_size"),
            hidden_size=hidden,
            intermediate_size=reader.integer("intermediate_size"),
            layers=reader.integer("num_hidden_layers"),
            heads=heads,
            kv_heads=reader.integer("num_key_value_heads", heads),
            head_dim=reader.integer("head_dim", head_width),
            context_length=reader.integer("max_position_embeddings", family.context_length),
            rope_theta=_rope_theta(reader),
            norm_epsilon=reader.positive("rms_norm_eps", 1e-6),
            tied_head=tied,
            qkv_bias=family.qkv_bias,
            architecture=str(values["model_type"]),
        )
    except FormatError as error:
        message = str(error)
        raise FormatError(message if str(path) in message else f"{path}: {message}") from None


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """What `config.json` must hold so that `config_from_json`, or transformers, gives the same shape."""
    return {
        "architectures": [FAMILIES[config.architecture].architecture],
        "model_type": config.architecture,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_head,
        "hidden_act": "silu",
    }


def _family(reader: _Values) -> Family:
    values = reader.values
    if "auto_map" in values:
        reader.fail("asks for code from the model's author (auto_map), which GEM never runs")
    kind = values.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        reader.fail(
            f"describes a model of type {_short(kind)}; supported are {', '.join(sorted(FAMILIES))}"
        )
    architectures = values.get("architectures")
    if architectures not in (None, [family.architecture]):
        reader.fail(
            f"names the architectures {_short(architectures)}; for type {kind} only "
            f"{family.architecture} is supported"
        )
    return family


def _rope_theta(reader: _Values) -> float:
    """The RoPE base, from `rope_parameters` (transformers 5) or `rope_theta` (before)."""
    base: Any = reader.values.get("rope_theta")
    for key in ("rope_parameters", "rope_scaling"):
        parameters = reader.values.get(key)
        if parameters is None:
            continue
        if not isinstance(parameters, dict):
            reader.fail(f"has {key} = {_short(parameters)}; it must be an object")
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            reader.fail(f"uses RoPE scaling of type {_short(kind)}, which is not supported")
        if parameters.get("partial_rotary_factor", 1) != 1:
            reader.fail("uses partial RoPE, which is not supported")
        if any(isinstance(value, dict) for value in parameters.values()):
            reader.fail(f"has different {key} in different layers, which is not supported")
        base = parameters.get("rope_theta", base)
    return 10000.0 if base is None else reader.check_positive("rope_theta", base)


class _Values:
    """Settings, read with checks."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def fail(self, reason: str) -> NoReturn:
        raise FormatError(f"{self.path} {reason}")

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            self.fail(f"lacks {name}")
        if type(value) is not int or not 0 < value < _LARGEST:
            self.fail(
                f"has {name} = {_short(value)}; it must be a whole number from 1 to {_LARGEST - 1}"
            )
        return value

    def positive(self, name: str, default: float) -> float:
        value = self.values.get(name)
        return self.check_positive(name, default if value is None else value)

    def check_positive(self, name: str, value: Any) -> float:
        # Whole numbers in JSON have no bound; those beyond float's range are no base or epsilon.
        if type(value) not in (int, float) or not 0 < value < 1e30:
            self.fail(f"has {name} = {_short(value)}; it must be a positive number")
        return float(value)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
