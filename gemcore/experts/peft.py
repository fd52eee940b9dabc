"""LoRA adapters of the `peft` library as experts (LoRA: arXiv 2106.09685; rsLoRA: arXiv 2312.03732)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError, UsageError
from gemcore.experts.card import MAX_RANK, ExpertCard, unit_order
from gemcore.experts.files import Expert, map_tensors
from gemcore.experts.ranks import halves, padded
from gemcore.formats.encodings import decoder_of
from gemcore.formats.json_file import read_object
from gemcore.formats.lazy_tensors import shorten
from gemcore.models.config import ModelConfig, expected_shapes
from gemcore.models.layout import EMBEDDING, HEAD, WeightUnit, weight_units

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

_PICKLE = "adapter_model.bin"
_TENSOR = re.compile(r"(?:base_model\.model\.)?(model\.layers\.[^\0]+)\.lora_([AB])\.weight\Z")

_HARMLESS = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
        "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
        "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type",
        "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
        "target_modules", "task_type", "use_rslora",
    }
)  # fmt: skip
"""Settings that are read here, or that do not change what the tensors mean."""

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base model's weights as they are."""


@attrs.frozen(kw_only=True)
class _Adapter:
    """What `adapter_config.json` says: the rank of each matrix, and the factor of `B @ A`."""

    rank: int
    scale: float


def is_peft_folder(folder: Path) -> bool:
    """Whether `folder` holds an adapter of the `peft` library, usable or not."""
    return (folder / CONFIG).is_file()


def peft_base_name(folder: Path) -> str | None:
    """What the adapter calls its base model; None where it does not say."""
    name = read_object(folder / CONFIG).get("base_model_name_or_path")
    return name if isinstance(name, str) and name.strip() and name.isprintable() else None


def read_peft(
    folder: Path,
    config: ModelConfig,
    *,
    name: str,
    base: str,
    base_name: str,
    domain: str | None = None,
    summary: str | None = None,
    licence: str = "unknown",
) -> Expert:
    """Read a LoRA adapter as an expert.

    A projection's delta is `scale * B @ A` with `scale = lora_alpha / r`, or `lora_alpha / sqrt(r)`
    for rsLoRA. Projections that GEM stacks into one unit (q, k and v; gate and up) are stacked here,
    too: their `A` side by side, their `B` block-diagonally, so the unit's rank is the sum of theirs.
    All units get the largest rank of any, with zeros.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        config: shape of the base model.
        name: of the expert.
        base, base_name: fingerprint and name of the base model, for the card; the adapter itself has
            no fingerprint, so only shapes can be checked.
        domain, summary, licence: for the card.

    Returns:
        The expert, not written anywhere.

    Raises:
        UsageError: there is no adapter, or it does not fit the base model.
        FormatError: a file is malformed, or the adapter is of a kind that is more than low-rank deltas
            on the decoder's linear layers; the message names the setting or the tensor.
    """
    adapter = _read_config(folder / CONFIG)
    pairs = _read_pairs(folder, adapter)
    _check_shapes(folder / TENSORS, pairs, config, base_name)
    units = [unit for unit in weight_units(config) if unit.name not in (EMBEDDING, HEAD)]
    deltas = {
        unit.name: _stacked(unit, pairs, adapter.scale, config)
        for unit in sorted(units, key=lambda unit: unit_order(unit.name))
        if any(source in pairs for source in unit.sources)
    }
    rank = max(down.shape[1] for down, _ in deltas.values())
    tensors: dict[str, npt.NDArray[np.float16]] = {}
    for unit_name, (down, up) in deltas.items():
        rounded = halves(down, up, what=f"{folder / TENSORS}: the delta of unit '{unit_name}'")
        tensors[f"{unit_name}.down"], tensors[f"{unit_name}.up"] = padded(*rounded, rank)
    card = ExpertCard(
        name=name,
        domain=domain or name,
        summary=summary or f"LoRA adapter {folder.resolve().name}",
        base=base,
        base_name=base_name,
        rank=rank,
        units=tuple(deltas),
        licence=licence,
    )
    return Expert(card=card, tensors=tensors)


def _read_config(path: Path) -> _Adapter:
    values = read_object(path)
    if values.get("peft_type") != "LORA":
        _refuse(
            path, f"its peft_type is {values.get('peft_type')!r:.40}, and GEM reads 'LORA' only"
        )
    if values.get("bias", "none") != "none":
        _refuse(path, f"its bias is {values['bias']!r:.40}: deltas of biases are not supported")
    for name in ("rank_pattern", "alpha_pattern"):
        if values.get(name):
            _refuse(path, f"it sets {name}: GEM reads adapters of one rank and one alpha only")
    start = values.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        _refuse(
            path,
            f"its init_lora_weights is {start!r:.40}, which changes the base model too: save the "
            "adapter as plain LoRA (in peft: path_initial_model_for_weight_conversion)",
        )
    for name, value in values.items():
        if value and name not in _HARMLESS:
            _refuse(
                path, f"it sets {name[:60]!r}, which GEM cannot honour: only plain LoRA can be read"
            )
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        _refuse(path, f"its r is {rank!r:.40}, not a whole number from 1 to {MAX_RANK}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < abs(alpha) < 1e6:
        _refuse(path, f"its lora_alpha is {alpha!r:.40}, not a number other than 0")
    stabilized = values.get("use_rslora", False)
    if type(stabilized) is not bool:
        _refuse(path, f"its use_rslora is {stabilized!r:.40}, neither true nor false")
    return _Adapter(rank=rank, scale=alpha / (math.sqrt(rank) if stabilized else rank))


Pairs = Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def _read_pairs(folder: Path, adapter: _Adapter) -> Pairs:
    """`A` `[r, in]` and `B` `[out, r]` of each projection, by the name of its weight."""
    path = folder / TENSORS
    if not path.is_file() and (folder / _PICKLE).is_file():
        _refuse(
            folder,
            f"its weights are a pickle ({_PICKLE}): GEM never unpickles, save as safetensors",
        )
    parts: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
    for name, values in map_tensors(path, ("F32", "F16", "BF16")).items():
        match = _TENSOR.match(name)
        if match is None:
            _refuse(
                path, f"tensor '{name}' is not lora_A or lora_B of a decoder layer's projection"
            )
        decode = decoder_of("BF16" if values.dtype == np.uint16 else "F32")
        matrix = decode(values)
        axis = 0 if match[2] == "A" else 1
        if matrix.ndim != 2 or matrix.shape[axis] != adapter.rank:
            _refuse(
                path, f"tensor '{name}' has shape {list(matrix.shape)}, but r is {adapter.rank}"
            )
        if not np.isfinite(matrix).all():
            _refuse(path, f"tensor '{name}' holds NaN or infinite values")
        parts.setdefault(f"{match[1]}.weight", {})[match[2]] = matrix
    halved = [
        f"lora_{'B' if 'A' in both else 'A'} of {name}"
        for name, both in parts.items()
        if len(both) < 2
    ]
    if halved:
        _refuse(path, f"it lacks {shorten(halved)}")
    if not parts:
        _refuse(path, "it holds no tensors")
    return {name: (both["A"], both["B"]) for name, both in parts.items()}


def _check_shapes(path: Path, pairs: Pairs, config: ModelConfig, base_name: str) -> None:
    expected = expected_shapes(config)
    for name, (a, b) in pairs.items():
        if name not in expected or len(expected[name]) != 2:
            raise UsageError(
                f"{path} does not fit base model '{base_name}', which has {config.layers} layers and no "
                f"projection '{name.removesuffix('.weight')}': the adapter is for another model"
            )
        shape = (b.shape[0], a.shape[1])
        if shape != expected[name]:
            raise UsageError(
                f"{path} does not fit base model '{base_name}': its delta of {name} has shape "
                f"{list(shape)}, but the weight has {list(expected[name])}: the adapter is for another "
                "model"
            )


def _stacked(
    unit: WeightUnit, pairs: Pairs, scale: float, config: ModelConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The factors of one unit's delta: `[in, ranks]` and `[ranks, out]`, the scale in the second."""
    shapes = expected_shapes(config)
    present = [source for source in unit.sources if source in pairs]
    down = np.concatenate([pairs[source][0].T for source in present], axis=1, dtype=np.float64)
    up = np.zeros((down.shape[1], unit.shape[0]))
    row = column = 0
    for source in unit.sources:
        rows = shapes[source][0]
        if source in pairs:
            block = pairs[source][1].T.astype(np.float64) * scale
            up[row : row + block.shape[0], column : column + rows] = block
            row += block.shape[0]
        column += rows
    return down, up


def _refuse(path: Path, reason: str) -> NoReturn:
    raise FormatError(f"{path} cannot be used: {reason}")
