"""GEM's uniform quantizers: one scheme for every linear weight."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import Option, QuantizerRecord

_SUMMARIES = {
    "q4a-g32": "4 bits, groups of 32 with scale and minimum (exact for GGUF Q4_1)",
    "q4s-g32": "4 bits, groups of 32 with a scale (exact for GGUF Q4_0)",
    "q8-g32": "8 bits, groups of 32 with a scale (exact for GGUF Q8_0)",
    "f16": "16-bit floating point, activations stay float32",
}


@hookimpl
def gem_quantizers() -> Iterator[QuantizerRecord]:
    """Yield one quantizer for each packing scheme."""
    for scheme, summary in _SUMMARIES.items():
        attribute = scheme.replace("-", "_")
        four_bits = scheme.startswith("q4")
        yield QuantizerRecord(
            name=scheme,
            summary=summary,
            loader=f"gem_uniform.quantizer:{attribute}",
            reference_url="https://arxiv.org/abs/2206.01861",
            options=(
                Option(
                    name="head",
                    type=str,
                    default="q8-g32" if four_bits else scheme,
                    choices=tuple(_SUMMARIES),
                    help="scheme of the embedding and the output head, which lose most to few bits",
                ),
            ),
            capabilities=frozenset({"round-to-nearest", "lossless-repacking"}),
        )
