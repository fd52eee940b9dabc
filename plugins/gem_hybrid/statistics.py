"""What rounding a weight costs, from passes of the float model forwards and backwards.

A small change `ΔW` of a weight `[out, in]` changes its outputs by `ΔW·x`, and the distribution over the
next tokens by a KL divergence of, to second order, half the mean of `(g·ΔW·x)²`, where `g` is the gradient
of the log-probabilities of tokens that the model itself draws (the Fisher information). With inputs and
gradients taken as independent, and gradients of different outputs as uncorrelated, as K-FAC
(arXiv 1503.05671) with a diagonal factor takes them, that is

    KL ≈ ½ · Σ_o  E[g_o²] · (ΔW · E[x xᵀ] · ΔWᵀ)_oo      nats a token.

Instead of drawing tokens, the backward pass starts from random vectors with the covariance of the Fisher
information of the logits, `diag(p) - p pᵀ`: `√p∘ε - p·(√p·ε)` with normal `ε`. It has less noise.

The head's gradients are known without a pass, `E[p_v·(1 - p_v)]`. A row of the embedding changes the
tokens that it stands for by the row itself; how often they come is what the model itself expects, the mean
of `p`, and what a change costs is settled by the covariance `E[g gᵀ]` of the gradients behind it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from gem_hybrid.states import (
    Windows,
    final_norm,
    finish,
    float_layer,
    float_vocabulary,
    layer_stages,
    rotation_of,
    units_of_layer,
)
from gemcore.models.cache_layout import KEY_BLOCK
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.eager import EagerModel
from gemcore.models.layout import EMBEDDING, HEAD, WeightUnit
from gemcore.models.weights import float_unit

SEED = 0


@attrs.frozen(kw_only=True, eq=False)
class Term:
    """One part of what rounding a weight costs: `½ Σ_o rows_o · (ΔW·hessian·ΔWᵀ)_oo` nats a token.

    Attributes:
        rows: float32 `[out]`, how much each output matters.
        hessian: float32 `[in, in]`, the mean of `x xᵀ`.
    """

    rows: Tensor
    hessian: Tensor


def rounding_hessian(terms: Iterable[Term]) -> Tensor:
    """The Hessian `[in, in]` for rounding, where one must serve all rows.

    It is exact for a single term, as the rows' own weights change nothing in the rounding of a row.
    """
    parts = [float(term.rows.mean()) * term.hessian for term in terms]
    return torch.stack(parts).sum(0)


@attrs.frozen(kw_only=True, eq=False)
class Importance:
    """How much the outputs of each weight matter, from gradients.

    Attributes:
        rows: for each unit `E[g²]` of each output, float32 `[out]`. For the head that is known without a
            gradient, also where it is the embedding; for the embedding it is how often each row is read.
        stream: `E[g gᵀ]` of the residual stream behind the embedding, float32 `[hidden, hidden]`.
    """

    rows: dict[str, Tensor]
    stream: Tensor


class _Squares:
    """The sum over tokens of squared gradients."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, gradient: Tensor) -> None:
        square = gradient.detach().square().sum(0)
        self.total = square if self.total is None else self.total.add_(square)


def measure_importance(checkpoint: Checkpoint, windows: Windows) -> Importance:
    """Run the model forwards and backwards over the windows, each by itself."""
    model = EagerModel(checkpoint)
    decoder, config = model.decoder.requires_grad_(False), model.config
    sums: dict[str, _Squares] = {}
    handles = []
    for name, module in decoder.named_modules():
        if name.startswith("layers.") and hasattr(module, "embed"):
            sums[name] = _Squares()
            handles.append(module.register_forward_hook(_listen(sums[name])))
    stream = torch.zeros(config.hidden_size, config.hidden_size)
    drawn = torch.zeros(config.vocabulary_size)
    spread = torch.zeros(config.vocabulary_size)
    generator = torch.Generator().manual_seed(SEED)
    for window in windows:
        count = len(window)
        caches = new_caches(config, -(-count // KEY_BLOCK) * KEY_BLOCK, torch.float32)
        ids = torch.tensor(window, dtype=torch.int32)
        x = decoder.embedding.embed(ids).requires_grad_()
        start = x
        placement = causal_placement(0, count)
        for layer, cache in zip(decoder.layers, caches, strict=True):
            x, _ = layer(x, decoder.rotation, placement, cache, None, None)
        logits = decoder.head(decoder.norm(x))
        with torch.no_grad():
            p = torch.softmax(logits, dim=1)
            drawn += p.sum(0)
            spread += (p * (1 - p)).sum(0)
            root = p.sqrt()
            noise = root * torch.randn(p.shape, generator=generator)
            noise -= p * noise.sum(1, keepdim=True)
            del p, root
        gradient = torch.autograd.grad(logits, start, noise)[0]
        stream.addmm_(gradient.T, gradient)
    for handle in handles:
        handle.remove()
    tokens = sum(map(len, windows))
    rows = {name: found.total / tokens for name, found in sums.items() if found.total is not None}
    rows |= {EMBEDDING: drawn / tokens, HEAD: spread / tokens}
    return Importance(rows=rows, stream=stream / tokens)


def unit_terms(
    name: str,
    importance: Importance,
    inputs: Tensor | None,
    tied_head: bool,
    *,
    rounding: bool = False,
) -> tuple[Term, ...]:
    """The terms of one weight unit, or of all bands of the embedding or the head.

    Args:
        name: of the unit.
        importance: of the model's outputs.
        inputs: the mean of `x xᵀ` of what the unit reads as a linear layer, float32 `[in, in]`; None for an
            embedding that is not the head.
        tied_head: the embedding is the head.
        rounding: the terms are to round with, and not to say what that costs. Of the covariance of the
            embedding's gradients both take the diagonal, and rounding half of the rest: it comes from
            few tokens, and what is rounded with it seems to lose less than it does.
    """
    if name != EMBEDDING:
        assert inputs is not None
        return (Term(rows=importance.rows[name], hessian=inputs),)
    hessian = torch.diag(importance.stream.diagonal())
    if rounding:
        hessian = (hessian + importance.stream) / 2
    embed = Term(rows=importance.rows[EMBEDDING], hessian=hessian)
    if not tied_head:
        return (embed,)
    assert inputs is not None
    return (embed, Term(rows=importance.rows[HEAD], hessian=inputs))


def of_rows(terms: Iterable[Term], unit: WeightUnit) -> tuple[Term, ...]:
    """The terms of the rows that a unit holds, from those of the whole."""
    rows = slice(None) if unit.rows is None else slice(*unit.rows)
    return tuple(attrs.evolve(term, rows=term.rows[rows]) for term in terms)


def measure_inputs(
    checkpoint: Checkpoint, sets: Sequence[Windows], wanted: Container[str]
) -> Iterator[tuple[str, list[Tensor]]]:
    """What each linear layer reads, layer by layer, with one layer's weights in memory.

    Yields the name of its unit and, for each set of windows, the mean of `x xᵀ`, float32 `[in, in]`, of
    those that are `wanted`. The head comes last, as one, also where it is the embedding or has bands.
    """
    config = checkpoint.config
    rotation = rotation_of(config)
    embedding = float_vocabulary(checkpoint, EMBEDDING)
    states = [[embedding[torch.tensor(window)] for window in windows] for windows in sets]
    del embedding
    for index in range(config.layers):
        units = units_of_layer(config, index)
        weights = {u.name: torch.from_numpy(float_unit(checkpoint, u)) for u in units}
        layer = float_layer(checkpoint, index, weights)
        runs = [layer_stages(layer, config, rotation, each) for each in states]
        for unit in units:
            read = [next(run)[1] for run in runs]
            if unit.name in wanted:
                yield unit.name, [mean_square(each) for each in read]
        states = [finish(run) for run in runs]
    head = EMBEDDING if config.tied_head else HEAD
    if head in wanted:
        yield head, [mean_square(final_norm(checkpoint, each)) for each in states]


def mean_square(states: Sequence[Tensor]) -> Tensor:
    """The mean of `x xᵀ` over all tokens of windows `[tokens, in]`: float32 `[in, in]`."""
    total = torch.zeros(states[0].shape[1], states[0].shape[1])
    for x in states:
        total.addmm_(x.T, x)
    return total.div_(sum(map(len, states)))


def _listen(squares: _Squares) -> object:
    def hook(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(squares.add)

    return hook
