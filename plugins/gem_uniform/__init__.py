"""GEM's uniform quantizers: one scheme for every linear weight."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import Option, QuantizerRecord

_SUMMARIES = {
    "q2z-g32": "2 bits, groups of 32 with scale and zero point of 8 bits",
    "q2a-g64": "2 bits, groups of 64 with scale and minimum",
    "q3z-g32": "3 bits, groups of 32 with scale and zero point of 8 bits",
    "q3a-g32": "3 bits, groups of 32 with scale and minimum",
    "q3a-g64": "3 bits, groups of 64 with scale and minimum",
    "q3s-g32": "3 bits, groups of 32 with a scale",
    "q3s-g64": "3 bits, groups of 64 with a scale",
    "q4z-g32": "4 bits, groups of 32 with scale and zero point of 8 bits",
    "q4a-g32": "4 bits, groups of 32 with scale and minimum (exact for GGUF Q4_1)",
    "q4a-g64": "4 bits, groups of 64 with scale and minimum",
    "q4s-g32": "4 bits, groups of 32 with a scale (exact for GGUF Q4_0)",
    "q4s-g64": "4 bits, groups of 64 with a scale",
    "q5z-g32": "5 bits, groups of 32 with scale and zero point of 8 bits",
    "q5a-g32": "5 bits, groups of 32 with scale and minimum (exact for GGUF Q5_1)",
    "q5a-g64": "5 bits, groups of 64 with scale and minimum",
    "q5s-g32": "5 bits, groups of 32 with a scale (exact for GGUF Q5_0)",
    "q5s-g64": "5 bits, groups of 64 with a scale",
    "q6-g32": "6 bits, groups of 32 with a scale",
    "q6-g64": "6 bits, groups of 64 with a scale",
    "q8-g32": "8 bits, groups of 32 with a scale (exact for GGUF Q8_0)",
    "q8-g64": "8 bits, groups of 64 with a scale",
    "f16": "16-bit floating point, activations stay float32",
}

_LOSSLESS = frozenset({"q4a-g32", "q4s-g32", "q5a-g32", "q5s-g32", "q8-g32", "f16"})
"""Schemes that hold a GGUF encoding exactly."""


@hookimpl
def gem_quantizers() -> Iterator[QuantizerRecord]:
    """Yield one quantizer for each packing scheme."""
    for scheme, summary in _SUMMARIES.items():
        attribute = scheme.replace("-", "_")
        yield QuantizerRecord(
            name=scheme,
            summary=summary,
            loader=f"gem_uniform.quantizer:{attribute}",
            reference_url="https://arxiv.org/abs/2206.01861",
            options=(
                Option(
                    name="head",
                    type=str,
                    default=scheme if scheme == "f16" else "q8-g32",
                    choices=tuple(_SUMMARIES),
                    help="scheme of the embedding and the output head, which lose most to few bits",
                ),
            ),
            capabilities=frozenset(
                {"round-to-nearest", *(["lossless-repacking"] if scheme in _LOSSLESS else [])}
            ),
        )
