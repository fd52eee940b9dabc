"""The weights of a bundle in the order that HVX reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gemcore.compiler.kernels.hvx import VECTOR
from gemcore.compiler.kernels.hvx_layout import arrange
from gemcore.compiler.packed_weights import packed_weights
from gemcore.formats.safetensors_writer import write_safetensors
from gemcore.runtime.mapped_weights import map_weights

if TYPE_CHECKING:
    from gemcore.compiler.export import ExportedDecoder


def rearrange(path: Path, exported: ExportedDecoder) -> None:
    """Write the file of a model's weights anew, whole or not at all."""
    packed = packed_weights(exported)
    arrays = dict(zip(exported.weights, map_weights(path, exported.weights), strict=True))
    arranged = {
        name: arrange(array, packed[name].scheme) if name in packed else array
        for name, array in arrays.items()
    }
    temporary = path.with_name(f".{path.name}")
    write_safetensors(temporary, arranged, VECTOR)
    temporary.replace(path)
