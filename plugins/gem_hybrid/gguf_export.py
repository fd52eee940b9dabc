"""A plan's result as a GGUF file, so that llama.cpp runs the very same weights.

No weight is rounded again: codes, scales and minima go as they are into the ggml type that holds them. A type
with more bits holds those of fewer, and groups of 64 are two blocks of 32 with one scale, so every scheme
with a type of its kind (with a minimum or without) is written exactly, at worst in more bytes. Only minima
that are stored as zero points are rounded to float16, by less than a hundredth of a code. Bands of the
vocabulary share one type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.cache import write_atomically
from gemcore.errors import GemError, UsageError
from gemcore.formats.encodings import ENCODINGS
from gemcore.formats.ggml_blocks import blocks_from_codes, encoding_for
from gemcore.formats.gguf import gguf_name, permute_rows
from gemcore.formats.gguf_config import ARCHITECTURES
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.config import ModelConfig
from gemcore.models.layout import norm_sources, vocabulary_weight, weight_units
from gemcore.models.weights import Weights, banded
from gemcore.packing import some_rows, unpack, unpack_halves
from gemcore.schemes import Scheme, get_scheme
from gemcore.text.gguf_metadata import tokenizer_metadata

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from gemcore.reports import Plan


@attrs.frozen(kw_only=True, eq=False)
class GgufTensor:
    """One tensor as it will lie in the file.

    Attributes:
        encoding: name of its ggml type.
        data: float32 or float16 of its shape, or uint8 `[rows, bytes a row]` for blocks.
    """

    encoding: str
    data: npt.NDArray[Any]


@attrs.frozen(kw_only=True, eq=False)
class _Piece:
    """Rows of a tensor that one packed weight holds.

    Attributes:
        scheme, packed: of the weight.
        stacked: its rows.
        rows: those of the tensor.
    """

    scheme: Scheme
    packed: npt.NDArray[Any]
    stacked: int
    rows: slice


def check_exportable(checkpoint: Checkpoint, plan: Plan) -> None:
    """Raise UsageError where the plan or the model has something that GGUF files of llama.cpp have not."""
    _check_architecture(checkpoint)
    bands: dict[str, list[Scheme]] = {}
    for entry in plan.entries:
        scheme = get_scheme(entry.scheme)
        bands.setdefault(vocabulary_weight(entry.unit) or entry.unit, []).append(scheme)
        if encoding_for(scheme) is None:
            raise UsageError(
                f"{entry.unit} is {entry.scheme}, which no GGUF type holds exactly: give it another "
                "precision in the plan"
            )
    for name, own in bands.items():
        if encoding_for(*own) is None:
            raise UsageError(
                f"the bands of {name} are {', '.join(scheme.name for scheme in own)}, which no single "
                "GGUF type holds: plan with bands=1, or give them alike precisions in the plan"
            )
    tokenizer_metadata(checkpoint.text, checkpoint.config.vocabulary_size)


def _check_architecture(checkpoint: Checkpoint) -> None:
    architecture = checkpoint.config.architecture
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"model '{checkpoint.name}' is of architecture '{architecture}', which GEM writes no GGUF "
            f"file for; it does for {', '.join(sorted(ARCHITECTURES))}"
        )


def write_gguf(path: Path, checkpoint: Checkpoint, plan: Plan, weights: Weights) -> None:
    """Write a quantized model; the file appears only when it is whole.

    Args:
        path: of the file.
        checkpoint: gives shape, norms, biases and tokenizer.
        plan, weights: as the quantizer made them.

    Raises:
        UsageError: see `check_exportable`.
        GemError: the file cannot be written.
    """
    checkpoint = banded(checkpoint, plan)
    check_exportable(checkpoint, plan)
    tensors = gguf_tensors(checkpoint, plan.schemes(), weights)
    _write(path, checkpoint, tensors, f"quantized by GEM: {plan.quantizer}")


def write_float_gguf(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model in float32, for quantizers of other projects; the file appears only when it is whole.

    Raises:
        UsageError: GEM writes no GGUF file of such a model.
        GemError: the file cannot be written.
    """
    _check_architecture(checkpoint)
    heads = permuted_heads(checkpoint.config)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        data, count = tensor.to_float32(), heads.get(name.split(".")[-2])
        ordered = data if count is None else permute_rows(data, count)
        tensors[gguf_name(name)] = GgufTensor(encoding="F32", data=ordered)
    _write(path, checkpoint, tensors, "float32, written by GEM")


def _write(
    path: Path, checkpoint: Checkpoint, tensors: Mapping[str, GgufTensor], description: str
) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(None, checkpoint.config.architecture)
    _add_metadata(writer, checkpoint, description)
    for name, tensor in tensors.items():
        blocked = ENCODINGS[tensor.encoding].is_blocked
        kind = GGMLQuantizationType[tensor.encoding] if blocked else None
        writer.add_tensor(name, np.ascontiguousarray(tensor.data), raw_dtype=kind)
    with write_atomically(path) as file:
        # The writer opens files by their path: the temporary one is there already, and empty.
        writer.write_header_to_file(Path(file.name))
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def gguf_tensors(
    checkpoint: Checkpoint, schemes: Mapping[str, str], weights: Weights
) -> dict[str, GgufTensor]:
    """Every tensor of the file by its GGUF name, with rows in the order that llama.cpp wants."""
    config = checkpoint.config
    heads = permuted_heads(config)
    found: dict[str, GgufTensor] = {}

    def add(source: str, encoding: str, data: npt.NDArray[Any]) -> None:
        count = heads.get(source.split(".")[-2])
        ordered = data if count is None else permute_rows(data, count)
        found[gguf_name(source)] = GgufTensor(encoding=encoding, data=ordered)

    pieces: dict[str, list[_Piece]] = {}
    for unit in weight_units(config):
        scheme, start = get_scheme(schemes[unit.name]), 0
        for source in unit.sources:
            rows = unit.shape[0] if unit.rows else checkpoint.tensors[source].shape[0]
            piece = _Piece(
                scheme=scheme,
                packed=weights[f"{unit.name}.packed"],
                stacked=unit.shape[0],
                rows=slice(start, start + rows),
            )
            pieces.setdefault(source, []).append(piece)
            start += rows
        for source in unit.bias_sources:
            add(source, "F32", checkpoint.tensors[source].to_float32())
    for source, parts in pieces.items():
        add(source, *_encoded(parts))
    for source in norm_sources(config).values():
        add(source, "F32", checkpoint.tensors[source].to_float32())
    return found


def _encoded(parts: list[_Piece]) -> tuple[str, npt.NDArray[Any]]:
    """The encoding of a tensor and its blocks, from its rows of one or more bands."""
    encoding = encoding_for(*(part.scheme for part in parts))
    assert encoding is not None
    found: list[npt.NDArray[Any]] = []
    for part in parts:
        if not part.scheme.grouped:
            found.append(unpack_halves(part.packed, part.stacked)[part.rows].astype(np.float16))
            continue
        whole = unpack(part.packed, part.scheme, part.stacked)
        found.append(blocks_from_codes(some_rows(whole, part.rows), part.scheme, encoding))
    return encoding, np.concatenate(found)


def permuted_heads(config: ModelConfig) -> dict[str, int]:
    """The projections whose rows lie in another order in the file, each with its number of heads."""
    if not ARCHITECTURES[config.architecture].permutes_rows:
        return {}
    return {"q_proj": config.heads, "k_proj": config.kv_heads}


def _add_metadata(writer: GGUFWriter, checkpoint: Checkpoint, description: str) -> None:
    config = checkpoint.config
    writer.add_name(checkpoint.name)
    writer.add_description(description)
    if checkpoint.licence:
        writer.add_license(checkpoint.licence)
    writer.add_quantization_version(2)
    _add_shape(writer, config)
    for key, value in tokenizer_metadata(checkpoint.text, config.vocabulary_size).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            raise GemError(f"metadata {key} is {type(value).__name__}, which has no GGUF type")


def _add_shape(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocabulary_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.layers)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
