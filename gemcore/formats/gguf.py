"""Checkpoints from GGUF files: Llama-architecture and Qwen2 models, memory-mapped.

`gguf_header` checks the file first; here its metadata becomes a ModelConfig, its tensors get their
Hugging Face names, and the rows of queries and keys get back the order that GGUF changes.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gemcore.cache import remembered_digest
from gemcore.errors import FormatError
from gemcore.formats.encodings import decoder_of, view_of
from gemcore.formats.gguf_config import ARCHITECTURES, config_from_metadata
from gemcore.formats.gguf_header import GgufTensor, read_header
from gemcore.formats.lazy_tensors import LazyTensors, check_shapes
from gemcore.formats.mapping import map_file
from gemcore.models.checkpoint import Checkpoint, StoredTensor
from gemcore.models.config import ModelConfig, expected_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_TOP_NAMES = MappingProxyType(
    {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    }
)
_LAYER_NAMES = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)


def load_gguf(path: Path, *, name: str | None = None, licence: str | None = None) -> Checkpoint:
    """Open a GGUF file as a checkpoint; the weights stay in the file until they are used.

    Args:
        path: a GGUF file with encodings F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K
            or Q6_K.
        name: what to call the model in reports; the file's name where it is not given.
        licence: SPDX name; the file's own `general.license` where it is not given.

    Raises:
        UsageError: there is no such file.
        FormatError: the file is malformed, or holds a model of another kind than GEM can run.
        GemError: the file may not be read.
    """
    from gemcore.text.gguf_tokenizer import text_data_from_gguf

    mapped = map_file(path)
    header = read_header(mapped, path)
    config = config_from_metadata(header.metadata, header.tensors, path)
    tensors = {hugging_face_name(tensor.name): tensor for tensor in header.tensors}
    check_shapes(
        str(path),
        {name: tensor.shape for name, tensor in tensors.items()},
        expected_shapes(config),
        gguf_name,
    )
    try:
        text = text_data_from_gguf(header.metadata)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    stated = header.metadata.get("general.license")
    return Checkpoint(
        name=name or path.name,
        config=config,
        tensors=LazyTensors(_makers(mapped, tensors, config)),
        text=text,
        identity=remembered_digest(path),
        licence=licence or (stated if isinstance(stated, str) else None),
    )


def hugging_face_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor; a name that is not known stays as it is.

    >>> hugging_face_name("blk.3.ffn_up.weight")
    'model.layers.3.mlp.up_proj.weight'
    """
    stem, _, suffix = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{suffix}"
    prefix, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    if prefix == "blk" and layer.isdecimal() and str(int(layer)) == layer and part in _LAYER_NAMES:
        return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{suffix}"
    return name


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor; a name that is not known stays as it is.

    >>> gguf_name("model.layers.3.mlp.up_proj.weight")
    'blk.3.ffn_up.weight'
    """
    stem, _, suffix = name.rpartition(".")
    for short, long in _TOP_NAMES.items():
        if stem == long:
            return f"{short}.{suffix}"
    prefix = "model.layers."
    layer, _, part = stem.removeprefix(prefix).partition(".")
    for short, long in _LAYER_NAMES.items():
        if stem.startswith(prefix) and part == long:
            return f"blk.{layer}.{short}.{suffix}"
    return name


def unpermute_rows(data: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Put the rows of a query or key projection into the Hugging Face order.

    GGUF files of the llama architecture hold the two halves of each head interleaved, because
    ggml's RoPE for them turns neighbours (2i, 2i+1), where Hugging Face's turns (i, i + d/2). Rows
    move whole, so this is exact for block encodings too.

    Args:
        data: `[rows, ...]`, any dtype, `rows` a multiple of `2 * heads`.
        heads: heads that the rows belong to.

    Returns:
        The same rows in order, a fresh array.
    """
    grouped = data.reshape(heads, data.shape[0] // heads // 2, 2, *data.shape[1:])
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(data.shape)


def permute_rows(data: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Put rows into the order of GGUF files; `unpermute_rows` undoes it."""
    grouped = data.reshape(heads, 2, data.shape[0] // heads // 2, *data.shape[1:])
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(data.shape)


def _makers(
    mapped: npt.NDArray[np.uint8], tensors: Mapping[str, GgufTensor], config: ModelConfig
) -> dict[str, Callable[[], StoredTensor]]:
    permuted: dict[str, int] = {}
    if ARCHITECTURES[config.architecture].permutes_rows:
        permuted = {"q_proj": config.heads, "k_proj": config.kv_heads}
    return {
        name: partial(_stored, mapped, tensors[name], name, permuted.get(name.split(".")[-2]))
        for name in expected_shapes(config)
    }


def _stored(
    mapped: npt.NDArray[np.uint8], tensor: GgufTensor, name: str, permuted_heads: int | None
) -> StoredTensor:
    data = view_of(mapped, tensor.offset, tensor.shape, tensor.encoding.name)
    if permuted_heads is not None:
        if data.shape[0] != tensor.shape[0]:
            raise FormatError(f"tensor {tensor.name} is a vector, and may not be stored in blocks")
        data = unpermute_rows(data, permuted_heads)
    return StoredTensor(
        name=name,
        shape=tensor.shape,
        encoding=tensor.encoding.name,
        data=data,
        decode=decoder_of(tensor.encoding.name),
    )
