"""gem-ternary: a quantizer for GEM.

GEM imports this module for every command, so it imports neither torch nor tvm; `quantizer.py` may.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemcore import hookimpl
from gemcore.records import Option, QuantizerRecord


@hookimpl
def gem_quantizers() -> Iterator[QuantizerRecord]:
    """Yield the quantizer `ternary`."""
    yield QuantizerRecord(
        name="ternary",
        summary="minus one, nothing or one, times a scale for each 64 weights",
        loader="gem_ternary.quantizer:TernaryQuantizer",
        reference_url="https://arxiv.org/abs/1605.04711",
        options=(
            Option(
                name="head", type=str, default="q8-g32", help="scheme of embedding and output head"
            ),
        ),
        capabilities=frozenset({"ternary"}),
    )
