"""A plan's result as a GGUF file, so that llama.cpp runs the very same weights.

No weight is rounded again: codes, scales and minima go as they are into the ggml type that holds them. A type
with more bits holds those of fewer, and groups of 64 are two blocks of 32 with one scale, so every scheme
with a type of its kind (with a minimum or without) is written exactly, at worst in more bytes.
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
from gemcore.models.layout import norm_sources, weight_units
from gemcore.models.weights import Weights
from gemcore.packing import Quantized, unpack, unpack_halves
from gemcore.schemes import get_scheme
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


def check_exportable(checkpoint: Checkpoint, plan: Plan) -> None:
    """Raise UsageError where the plan or the model has something that GGUF files of llama.cpp have not."""
    _check_architecture(checkpoint)
    for entry in plan.entries:
        if encoding_for(get_scheme(entry.scheme)) is None:
            raise UsageError(
                f"{entry.unit} is {entry.scheme}, which no GGUF type holds exactly: give it another "
                "precision in the plan"
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

    for unit in weight_units(config):
        scheme, start = get_scheme(schemes[unit.name]), 0
        packed = weights[f"{unit.name}.packed"]
        if scheme.grouped:
            whole = unpack(packed, scheme, unit.shape[0])
        else:
            halves = unpack_halves(packed, unit.shape[0]).astype(np.float16)
        for source in unit.sources:
            end = start + checkpoint.tensors[source].shape[0]
            rows = slice(start, end)
            if scheme.grouped:
                encoding = encoding_for(scheme)
                assert encoding is not None
                add(source, encoding, blocks_from_codes(_rows(whole, rows), scheme))
            else:
                add(source, "F16", halves[rows])
            start = end
        for source in unit.bias_sources:
            add(source, "F32", checkpoint.tensors[source].to_float32())
    for source in norm_sources(config).values():
        add(source, "F32", checkpoint.tensors[source].to_float32())
    return found


def permuted_heads(config: ModelConfig) -> dict[str, int]:
    """The projections whose rows lie in another order in the file, each with its number of heads."""
    if not ARCHITECTURES[config.architecture].permutes_rows:
        return {}
    return {"q_proj": config.heads, "k_proj": config.kv_heads}


def _rows(quantized: Quantized, rows: slice) -> Quantized:
    return Quantized(
        codes=quantized.codes[rows],
        scales=quantized.scales[rows],
        minima=None if quantized.minima is None else quantized.minima[rows],
    )


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
