"""Scales and minima that a scheme can store, from the bits that it stores them in."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gemcore.schemes import Scheme

# By their bits: `floats(width=16)` draws wider numbers, and throws most of them away.
FINITE_HALVES = st.one_of(st.integers(0, 0x7BFF), st.integers(0x8000, 0xFBFF)).map(
    lambda bits: float(np.uint16(bits).view(np.float16))
)


def from_bytes(scheme: Scheme, scales: np.ndarray, zeros: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scales and minima that stand for two bytes each, by the words of `gemcore.packing`."""
    exponents, mantissas = scales.astype(int) >> 4, scales.astype(int) & 15
    normal = exponents > 0
    values = np.where(normal, 1 + mantissas / 16, mantissas / 16) * 2.0 ** np.where(
        normal, exponents - 12, -11
    )
    minima = -(values * zeros / 2.0 ** (8 - scheme.bits))
    return values.astype(np.float16), minima.astype(np.float32)


def any_factors(scheme: Scheme, shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray | None]:
    """Scales of both signs and minima, where the scheme has them; by their names in `Quantized`."""
    generator = np.random.default_rng(seed)
    if scheme.byte_factors:
        scales, minima = from_bytes(scheme, *generator.integers(0, 256, (2, *shape)))
        return {"scales": scales, "minima": minima}
    scales, minima = generator.standard_normal((2, *shape)).astype(np.float16)
    return {"scales": scales, "minima": minima if scheme.has_minimum else None}
