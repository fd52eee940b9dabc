"""What rounding a weight costs, from one pass of the float model forwards and backwards.

A small change `ΔW` of a weight `[out, in]` changes its outputs by `ΔW·x`, and the distribution over the
next tokens by a KL divergence of, to second order, half the mean of `(g·ΔW·x)²`, where `g` is the gradient
of the log-probabilities of tokens that the model itself draws (the Fisher information). With inputs and
gradients taken as independent, and gradients of different outputs as uncorrelated, as K-FAC
(arXiv 1503.05671) with a diagonal factor takes them, that is

    KL ≈ ½ · Σ_o  E[g_o²] · (ΔW · E[x xᵀ] · ΔWᵀ)_oo      nats a token.

Instead of drawing tokens, the backward pass starts from random vectors with the covariance of the Fisher
information of the logits, `diag(p) - p pᵀ`: `√p∘ε - p·(√p·ε)` with normal `ε`. It has less noise.

The head's gradients are known without a pass, `E[p_v·(1 - p_v)]`. A row of the embedding changes the
tokens that it stands for; how often they come is what the model itself expects, the mean of `p`.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import torch
from torch import Tensor

from gem_hybrid.states import Windows
from gemcore.models.cache_layout import KEY_BLOCK
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.eager import EagerModel
from gemcore.models.layout import EMBEDDING, HEAD

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


class _Sums:
    """Sums over tokens of what one unit reads and of its squared gradients."""

    def __init__(self) -> None:
        self.inputs: Tensor | None = None
        self.gradients: Tensor | None = None

    def read(self, x: Tensor) -> None:
        product = x.detach().T @ x.detach()
        self.inputs = product if self.inputs is None else self.inputs.add_(product)

    def learn(self, gradient: Tensor) -> None:
        square = gradient.detach().square().sum(0)
        self.gradients = square if self.gradients is None else self.gradients.add_(square)


def measure_terms(
    checkpoint: Checkpoint, windows: Windows, only: Iterable[str] | None = None
) -> dict[str, tuple[Term, ...]]:
    """The terms of each weight unit, or of those in `only`, by name.

    Args:
        checkpoint: the model.
        windows: token ids; the model reads each by itself.
        only: names of units; the others cost no memory.
    """
    model = EagerModel(checkpoint)
    decoder, config = model.decoder.requires_grad_(False), model.config
    chosen = None if only is None else set(only)
    sums: dict[str, _Sums] = {}
    handles = []
    for name, module in decoder.named_modules():
        linear = name.startswith("layers.") and hasattr(module, "embed")
        if linear and (chosen is None or name in chosen):
            sums[name] = _Sums()
            handles.append(module.register_forward_hook(_listen(sums[name])))
    stream, last = _Sums(), _Sums()
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
        read = decoder.norm(x)
        last.read(read)
        logits = decoder.head(read)
        with torch.no_grad():
            p = torch.softmax(logits, dim=1)
            drawn += p.sum(0)
            spread += (p * (1 - p)).sum(0)
            root = p.sqrt()
            noise = root * torch.randn(p.shape, generator=generator)
            noise -= p * noise.sum(1, keepdim=True)
            del p, root
        stream.learn(torch.autograd.grad(logits, start, noise)[0])
    for handle in handles:
        handle.remove()
    tokens = sum(map(len, windows))
    terms: dict[str, tuple[Term, ...]] = {
        name: (_term(found, tokens),) for name, found in sums.items()
    }
    assert stream.gradients is not None
    assert last.inputs is not None
    embed = Term(rows=drawn / tokens, hessian=torch.diag(stream.gradients / tokens))
    head = Term(rows=spread / tokens, hessian=last.inputs / tokens)
    if chosen is None or EMBEDDING in chosen:
        terms[EMBEDDING] = (embed, head) if config.tied_head else (embed,)
    if not config.tied_head and (chosen is None or HEAD in chosen):
        terms[HEAD] = (head,)
    return terms


def _listen(sums: _Sums) -> object:
    def hook(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sums.read(inputs[0])
        output.register_hook(sums.learn)

    return hook


def _term(sums: _Sums, tokens: int) -> Term:
    assert sums.inputs is not None
    assert sums.gradients is not None
    return Term(rows=sums.gradients / tokens, hessian=sums.inputs / tokens)
