"""What a program that runs a bundle must be told of it, as a text that is easily read in C.

Each line is a word and its values:

    gem-plan 1
    library PATH
    weights PATH
    threads N
    layers N
    vocabulary N
    experts N
    prior LONGEST           the most tokens from which the code gives a prior; 0 where it gives none
    encoder 0|1             whether those are the tokens of an encoder of its own
    cache DTYPE RANK SIZE... RANK SIZE...   keys, then values, of one block of 16 positions; axis 1 grows
    stop ID...
    weight DTYPE OFFSET RANK SIZE...        one for each, in the order of the code's inputs
    end

Paths are absolute, or relative to the plan's own folder. Offsets are bytes in the file of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemcore.bundle import ENCODER_TOKENIZER, WEIGHTS
from gemcore.errors import BundleError
from gemcore.formats.safetensors_header import read_safetensors_header
from gemcore.models.cache_layout import KEY_BLOCK, cache_dtype, cache_shapes

if TYPE_CHECKING:
    from gemcore.bundle import Bundle

PLAN = "plan.txt"
"""Name of the file, where it goes with the other files."""

_TYPES = {"F32": "float32", "F16": "float16", "U8": "uint8", "I32": "int32"}


def bundle_plan(bundle: Bundle, library: str, weights: str, threads: int) -> str:
    """The plan of a bundle whose files a program finds at the paths `library` and `weights`.

    Raises BundleError for a weight that is not there, FormatError for a damaged file.
    """
    manifest = bundle.manifest
    config, scheme = manifest.config, manifest.kv_cache
    keys, values = cache_shapes(config, KEY_BLOCK, scheme)
    encoder = int(ENCODER_TOKENIZER in manifest.files)
    lines = [
        "gem-plan 1",
        f"library {library}",
        f"weights {weights}",
        f"threads {threads}",
        f"layers {config.layers}",
        f"vocabulary {config.vocabulary_size}",
        f"experts {len(manifest.experts)}",
        f"prior {manifest.prior_tokens}",
        f"encoder {encoder}",
        f"cache {cache_dtype(scheme)} {_sizes(keys)} {_sizes(values)}",
        " ".join(["stop", *map(str, manifest.text["stop_token_ids"])]),
        *_weight_lines(bundle.folder / WEIGHTS, manifest.weights),
        "end",
    ]
    return "\n".join(lines) + "\n"


def _weight_lines(path: Path, names: tuple[str, ...]) -> list[str]:
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    tensors = {tensor.name: tensor for tensor in read_safetensors_header(mapped, path)}
    lines = []
    for name in names:
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype not in _TYPES:
            raise BundleError(f"{path} holds no weight '{name}' that this GEM can read")
        lines.append(f"weight {_TYPES[tensor.dtype]} {tensor.offset} {_sizes(tuple(tensor.shape))}")
    return lines


def _sizes(shape: tuple[int, ...]) -> str:
    return " ".join(map(str, (len(shape), *shape)))
