"""MiniLM, a sentence encoder: a text's tokens to one unit vector that says what it is about.

BERT (arXiv 1810.04805) of a few narrow layers, distilled (MiniLM, arXiv 2002.10957) and trained to give
texts of like meaning like vectors (Sentence-BERT, arXiv 1908.10084): the mean of the last layer's states
over all tokens, at length 1.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from gemcore.models import ops
from gemcore.models.cache_layout import KEY_BLOCK, PLACEMENT_FIELDS
from gemcore.models.linear import DENSE, make_linear

SCHEME = "q8-g32"
"""How compiled encoders store their weights: a quarter of float32, and the quickest product GEM has."""


@attrs.frozen(kw_only=True)
class EncoderShape:
    """Shape of a BERT encoder.

    Attributes:
        vocabulary_size: rows of the embedding.
        longest: the most tokens of a text; a multiple of 16.
        hidden_size: width of the states.
        layers, heads: how many there are.
        intermediate_size: width inside the feed-forward block.
        epsilon: added to the variance in LayerNorm.
    """

    vocabulary_size: int
    longest: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    epsilon: float = 1e-12


class MiniLM(nn.Module):
    """The encoder, for one text at a time.

    Args:
        shape: of the encoder.
        scheme: of all matrices: a packing scheme, for products that compile into GEM's kernels, or `f32`,
            for ordinary float32 torch.
    """

    def __init__(self, shape: EncoderShape, scheme: str = SCHEME) -> None:
        super().__init__()
        self.shape = shape
        self.words = make_linear(scheme, (shape.vocabulary_size, shape.hidden_size))
        self.positions = _parameter(shape.longest, shape.hidden_size)
        self.norm = LayerNorm(shape.hidden_size, shape.epsilon)
        self.layers = nn.ModuleList(EncoderLayer(shape, scheme) for _ in range(shape.layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` int32 `[tokens]`, at most `longest`, to a float32 vector `[hidden]` of length 1."""
        # Not a slice, nor an arange of a size that is open: TVM loses sight of their shapes.
        index = torch.cumsum(torch.ones_like(tokens), 0, dtype=torch.int32) - 1
        x = self.norm(self.words.embed(tokens) + self.positions.index_select(0, index))
        places = whole_text(index, self.shape.longest)
        for layer in self.layers:
            x = layer(x, places)
        mean = x.mean(0)
        return mean * torch.rsqrt((mean * mean).sum() + 1e-24)


class EncoderLayer(nn.Module):
    """Attention of all tokens over all, then a feed-forward block; a LayerNorm follows each addition."""

    def __init__(self, shape: EncoderShape, scheme: str) -> None:
        super().__init__()
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self.heads, self.dense = shape.heads, scheme == DENSE
        self.qkv = make_linear(scheme, (3 * hidden, hidden), bias=True)
        self.out = make_linear(scheme, (hidden, hidden), bias=True)
        self.attention_norm = LayerNorm(hidden, shape.epsilon)
        self.up = make_linear(scheme, (inner, hidden), bias=True)
        self.down = make_linear(scheme, (hidden, inner), bias=True)
        self.output_norm = LayerNorm(hidden, shape.epsilon)

    def forward(self, x: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
        """`x` float32 `[tokens, hidden]` to the same shape; `places` as `whole_text` gives them."""
        qkv = self.qkv(x).reshape(x.shape[0], 3, self.heads, -1)
        queries, keys, values = qkv.unbind(1)
        if self.dense:
            attended = attention(queries, keys, values)
        else:
            attended = cached_attention(queries, keys, values, *places)
        x = self.attention_norm(self.out(attended) + x)
        inner = nn.functional.gelu(self.up(x)) if self.dense else gelu(self.up(x))
        normed: Tensor = self.output_norm(self.down(inner) + x)
        return normed


class LayerNorm(nn.Module):
    """LayerNorm (arXiv 1607.06450) in plain operations."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.gain, self.bias, self.epsilon = _parameter(width), _parameter(width), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """`x` float32 `[tokens, width]` to the same shape."""
        centred = x - x.mean(-1, keepdim=True)
        # Not `square`, which TVM makes a call of `pow` for every number.
        variance = (centred * centred).mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.epsilon) * self.gain + self.bias


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Every token attends to all: `[tokens, heads, width]` each to `[tokens, heads * width]`."""
    heads = [part.transpose(0, 1)[None] for part in (queries, keys, values)]
    found = nn.functional.scaled_dot_product_attention(*heads).squeeze(0)
    return found.transpose(0, 1).flatten(1)


def whole_text(index: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Where `cached_attention` finds things.

    Args:
        index: int32 `[tokens]`, from 0.
        longest: slots of the cache.

    Returns:
        For each slot the token in it, int32 `[longest]`, where the last token fills the rest; and the
        placement of each token, int32 `[tokens, 5]`.
    """
    last = index.max()
    slots = torch.arange(longest, dtype=torch.int32, device=index.device)
    # As if each token stood last: it sees all slots from 0 to that one.
    nothing = torch.zeros_like(index)
    fields = [nothing + last if field == _SLOT else nothing for field in range(PLACEMENT_FIELDS)]
    return torch.minimum(slots, last), torch.stack(fields, 1)


_SLOT = 1


def cached_attention(
    queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, placement: Tensor
) -> Tensor:
    """`attention` by the decoder's kernel, over a float16 cache that is made for this one call."""
    tokens, heads, width = queries.shape
    longest = slots.shape[0]
    keys = keys.reshape(tokens, heads * width).index_select(0, slots).to(torch.float16)
    values = values.reshape(tokens, heads * width).index_select(0, slots).to(torch.float16)
    blocks = keys.reshape(longest // KEY_BLOCK, KEY_BLOCK, heads, width).permute(2, 0, 3, 1)
    rows = values.reshape(longest, heads, width).permute(1, 0, 2)
    return ops.attention(queries.contiguous(), blocks.contiguous(), rows.contiguous(), placement)


def gelu(x: Tensor) -> Tensor:
    """GELU (arXiv 1606.08415), with the error function within 1e-6: `x * (1 + erf(x / sqrt(2))) / 2`.

    The error function is a quotient of two polynomials (as in Eigen and TVM's `fast_erf`), which compile
    into vectors; the C library's would be called for every number.
    """
    half = (x * _ROOT_OF_HALF).clamp(-4.0, 4.0)
    square = half * half
    above, below = square * _ABOVE[0] + _ABOVE[1], square * _BELOW[0] + _BELOW[1]
    for coefficient in _ABOVE[2:]:
        above = above * square + coefficient
    for coefficient in _BELOW[2:]:
        below = below * square + coefficient
    return x * 0.5 * (1 + half * above / below)


_ROOT_OF_HALF = 0.5**0.5

_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)

_BELOW = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)
