"""The terms of the loss; logits, which are as wide as the vocabulary, exist for a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 128
"""Rows of logits at a time: 25 MB of float32 for a vocabulary of 49152."""

ChunkLoss = Callable[[Tensor, slice], Tensor]
"""Logits `[rows, vocabulary]` float32 and the rows that they are of, to a sum over the rows."""


def head_loss(
    hidden: Tensor, head: Tensor, loss: ChunkLoss, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """`loss` of the logits `hidden @ head.T`, summed, without ever holding all logits.

    The gradient of a chunk is taken as soon as its loss is known, and only gradients are kept: each of
    the two products with the head is made once.

    Args:
        hidden: `[rows, hidden]`.
        head: `[vocabulary, hidden]`.
        loss: of the logits of some rows; it must be a sum over rows.
        chunk_rows: how many rows at a time.

    Returns:
        A scalar, float32, differentiable in `hidden` and, if it asks for a gradient, in `head`.
    """
    result: Tensor = _HeadLoss.apply(hidden, head, loss, chunk_rows)
    return result


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, loss: ChunkLoss, rows: int) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        head_grad = torch.zeros_like(head) if wants_head else None
        if not wants_head and torch.is_autocast_enabled("cpu"):
            # Once, rather than in each chunk.
            head = head.to(torch.get_autocast_dtype("cpu"))
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, min(start + rows, hidden.shape[0]))
            with torch.enable_grad():
                x = hidden[part].detach().requires_grad_(wants_hidden)
                weight = head.detach().requires_grad_(wants_head)
                value = loss(torch.nn.functional.linear(x, weight).float(), part)
                wanted = [tensor for tensor in (x, weight) if tensor.requires_grad]
                found = list(torch.autograd.grad(value, wanted)) if wanted else []
            total += value.detach()
            if hidden_grad is not None:
                hidden_grad[part] = found.pop(0)
            if head_grad is not None:
                head_grad += found.pop(0)
        ctx.grads = hidden_grad, head_grad
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        scaled = [None if grad is None else grad * outputs[0] for grad in ctx.grads]
        return *scaled, None, None


def cross_entropy(targets: Tensor, weights: Tensor) -> ChunkLoss:
    """Weighted negative log-likelihood in nats, summed: `targets` int64 `[rows]`, `weights` `[rows]`."""

    def loss(logits: Tensor, part: slice) -> Tensor:
        nats = torch.nn.functional.cross_entropy(logits, targets[part], reduction="none")
        return torch.dot(nats, weights[part])

    return loss


def divergence(
    base_hidden: Tensor, base_head: Tensor, targets: Tensor, nats: list[float]
) -> ChunkLoss:
    """KL(base ‖ model) in nats, summed over rows.

    Args:
        base_hidden: the base model's normed hidden states `[rows, hidden]`.
        base_head: its head `[vocabulary, hidden]`.
        targets: int64 `[rows]`.
        nats: takes, for each chunk, the model's negative log-likelihood of the targets, which costs
            nothing here.
    """

    def loss(logits: Tensor, part: slice) -> Tensor:
        with torch.no_grad():
            base = torch.nn.functional.linear(base_hidden[part], base_head).float()
            base = base.log_softmax(-1)
        own = logits.log_softmax(-1)
        chosen = own.detach().gather(1, targets[part, None])
        nats.append(float(-chosen.sum(dtype=torch.float64)))
        return torch.nn.functional.kl_div(own, base, reduction="sum", log_target=True)

    return loss
