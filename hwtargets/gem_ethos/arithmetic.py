"""The integer arithmetic of the parts that an Ethos-U runs, in NumPy: what TOSA 1.0 prescribes.

Activations and weights are int8 without offset. A sum becomes int8 again by `RESCALE` with single rounding:
`(sum * multiplier + 2**(shift - 1)) >> shift`, cut to -128..127.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[Any]


@attrs.frozen(kw_only=True, eq=False)
class Rescale:
    """Multipliers int32 and shifts int8, one for each channel or one for all."""

    multiplier: Ints
    shift: Ints

    @classmethod
    def of(cls, factors: npt.NDArray[np.float64]) -> Rescale:
        """For positive factors below 1: mantissas of 31 bits."""
        mantissa, exponent = np.frexp(factors)
        multiplier = np.round(mantissa * 2.0**31).astype(np.int64)
        # A mantissa that rounds up to 1 is a half of the next power of two.
        over = multiplier == 2**31
        multiplier = np.where(over, multiplier >> 1, multiplier)
        shift = 31 - exponent - over
        # TOSA takes shifts from 2 to 62: what is smaller than that rounds to nothing.
        small = shift > 62
        multiplier = np.where(small, 0, multiplier)
        return cls(
            multiplier=multiplier.astype(np.int32),
            shift=np.clip(shift, 2, 62).astype(np.int8),
        )

    def __call__(self, sums: Ints) -> Ints:
        """int32 sums to int8."""
        shift = self.shift.astype(np.int64)
        product = sums.astype(np.int64) * self.multiplier.astype(np.int64)
        scaled = (product + (np.int64(1) << (shift - 1))) >> shift
        codes: Ints = np.clip(scaled, -128, 127).astype(np.int8)
        return codes


@attrs.frozen(kw_only=True, eq=False)
class Linear:
    """A product with int8 weights.

    Attributes:
        weight: int8 `[out, in]`.
        bias: int32 `[out]`, added to the sums.
        rescale: from sums to int8 outputs.
    """

    weight: Ints
    bias: Ints
    rescale: Rescale

    def __call__(self, x: Ints) -> Ints:
        """int8 `[tokens, in]` to int8 `[tokens, out]`."""
        return self.rescale(x.astype(np.int32) @ self.weight.astype(np.int32).T + self.bias)

    def arrays(self, name: str) -> dict[str, Ints]:
        """What `gem_ethos.graphs` makes a graph of."""
        return {
            f"{name}.weight": self.weight,
            f"{name}.bias": self.bias,
            f"{name}.multiplier": self.rescale.multiplier,
            f"{name}.shift": self.rescale.shift,
        }


@attrs.frozen(kw_only=True, eq=False)
class FeedForward:
    """A whole feed-forward part: `down(silu(gate(x)) * up(x))`.

    Attributes:
        gate, up, down: the products.
        silu: int8 `[256]`: silu of each int8 value from -128 on.
        product: from products of int8 to int8.
    """

    gate: Linear
    up: Linear
    down: Linear
    silu: Ints
    product: Rescale

    def __call__(self, x: Ints) -> Ints:
        """int8 `[tokens, in]` to int8 `[tokens, in]`."""
        active = self.silu[self.gate(x).astype(np.int32) + 128].astype(np.int32)
        return self.down(self.product(active * self.up(x).astype(np.int32)))

    def arrays(self) -> dict[str, Ints]:
        """What `gem_ethos.graphs` makes a graph of."""
        factors = {
            "silu": self.silu,
            "product.multiplier": self.product.multiplier,
            "product.shift": self.product.shift,
        }
        parts = {"gate": self.gate, "up": self.up, "down": self.down}
        return factors | {
            k: v for name, part in parts.items() for k, v in part.arrays(name).items()
        }


def round_rows(weight: Floats) -> tuple[Ints, Floats]:
    """A weight `[out, in]` as int8, and the scale of each row, `[out]`."""
    scales = np.maximum(np.abs(weight).max(axis=1), np.float32(1e-12)) / np.float32(127)
    return np.clip(np.rint(weight / scales[:, None]), -127, 127).astype(np.int8), scales


def make_linear(
    weight: Floats, in_scale: float, out_scale: float, bias: Floats | None = None
) -> Linear:
    """The integer product that stands for `weight`, given what one step of in- and outputs means."""
    rounded, scales = round_rows(weight)
    steps = scales.astype(np.float64) * in_scale
    added = np.zeros(len(weight)) if bias is None else np.clip(bias / steps, -(2**30), 2**30)
    return Linear(
        weight=rounded, bias=np.rint(added).astype(np.int32), rescale=Rescale.of(steps / out_scale)
    )


def make_feed_forward(
    gate_up: Floats, down: Floats, scales: tuple[float, float, float, float, float]
) -> FeedForward:
    """The integer feed-forward part of float weights.

    Args:
        gate_up: `[2 * inner, in]`.
        down: `[in, inner]`.
        scales: what one step of input, gate, up, their product and output means.
    """
    given, gate, up, middle, out = scales
    inner = gate_up.shape[0] // 2
    x = np.arange(-128, 128) * gate
    silu = x / (1 + np.exp(-x))
    step = float(np.abs(silu).max()) / 127
    return FeedForward(
        gate=make_linear(gate_up[:inner], given, gate),
        up=make_linear(gate_up[inner:], given, up),
        down=make_linear(down, middle, out),
        silu=np.clip(np.rint(silu / step), -128, 127).astype(np.int8),
        product=Rescale.of(np.array([step * up / middle])),
    )
