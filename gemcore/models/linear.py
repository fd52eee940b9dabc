"""Linear layers and the embedding, dense or packed: one class for each way to store a weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gemcore.models import ops
from gemcore.packing import packed_shape
from gemcore.schemes import get_scheme

DENSE = "f32"
"""The scheme of weights that are not packed: plain float32, for the reference and for training."""


def make_linear(scheme: str, shape: tuple[int, int], bias: bool = False) -> nn.Module:
    """A linear layer for a weight `[out, in]` stored in `scheme` (a packing scheme, or `f32`)."""
    if scheme == DENSE:
        return DenseLinear(shape, bias)
    return PackedLinear(scheme, shape, bias)


class BandedLinear(nn.Module):
    """A linear layer, or an embedding, whose rows are stored in several bands, each in its own way.

    Args:
        bands: one layer for the rows of each band, in their order.
        rows: number of rows of each.
    """

    def __init__(self, bands: Sequence[nn.Module], rows: Sequence[int]) -> None:
        super().__init__()
        for place, band in enumerate(bands):
            self.add_module(str(place), band)
        self._rows = tuple(rows)

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[tokens, in]` float32 to `[tokens, out]` float32."""
        quantized: tuple[Tensor, Tensor, Tensor] | None = None
        parts = []
        for band in self.children():
            if isinstance(band, PackedLinear) and band.rounds:
                quantized = quantized or ops.quantize(x)
                parts.append(band.product(*quantized))
            else:
                parts.append(band(x))
        return torch.cat(parts, 1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the weight: `tokens` int32 `[tokens]` to float32 `[tokens, in]`."""
        start, found = 0, None
        for band, rows in zip(self.children(), self._rows, strict=True):
            own: Tensor = band.embed(torch.clamp(tokens - start, 0, rows - 1))
            found = own if found is None else torch.where((tokens >= start)[:, None], own, found)
            start += rows
        assert found is not None
        return found


class DenseLinear(nn.Module):
    """`x @ weight.T + bias` in float32: `[tokens, in]` to `[tokens, out]`."""

    def __init__(self, shape: tuple[int, int], bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[tokens, in]` float32 to `[tokens, out]` float32."""
        return nn.functional.linear(x, self.weight, self.bias)

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the weight: `tokens` int32 `[tokens]` to float32 `[tokens, in]`."""
        return nn.functional.embedding(tokens, self.weight)


class PackedLinear(nn.Module):
    """A linear layer whose weight is packed in `scheme`.

    Attributes:
        scheme: name of the packing scheme.
        rounds: whether activations are rounded to int8, as integer schemes want them.
    """

    def __init__(self, scheme: str, shape: tuple[int, int], bias: bool = False) -> None:
        super().__init__()
        layout = get_scheme(scheme)
        dtype = torch.uint8 if layout.grouped else torch.float16
        self.scheme, self.rounds = layout.name, layout.grouped
        self.out_features, self.in_features = shape
        self.packed = nn.Parameter(
            torch.empty(packed_shape(layout, shape), dtype=dtype), requires_grad=False
        )
        self.bias = nn.Parameter(torch.empty(shape[0]), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[tokens, in]` float32 to `[tokens, out]` float32."""
        if self.rounds:
            return self.product(*ops.quantize(x))
        return self._biased(ops.linear_f16(x, self.packed, self.out_features))

    def product(self, values: Tensor, scales: Tensor, sums: Tensor) -> Tensor:
        """The same for activations that `gemcore.models.ops.quantize` has rounded."""
        y = ops.qlinear(values, scales, sums, self.packed, self.scheme, self.out_features)
        return self._biased(y)

    def _biased(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the weight: `tokens` int32 `[tokens]` to float32 `[tokens, in]`."""
        return ops.embedding(tokens, self.packed, self.scheme, self.in_features)
