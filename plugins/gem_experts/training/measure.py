"""Bits per byte of held-out texts, as they are now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from gem_experts.training.losses import cross_entropy, head_loss
from gem_experts.training.model import read_pass
from gem_experts.training.sequences import TokenText, make_pass, pack

if TYPE_CHECKING:
    from gemcore.models.decoder import Decoder


def bits_per_byte(
    decoder: Decoder,
    texts: Sequence[TokenText],
    batch_tokens: int,
    *,
    expert: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Negative log2-likelihood of the texts over their bytes, every token but the texts' first marks.

    All arithmetic is float32, whatever training uses.
    """
    nats, size = 0.0, 0
    passes = pack(texts, batch_tokens)
    with torch.no_grad():
        for done, chosen in enumerate(passes, start=1):
            made = make_pass(chosen)
            targets = torch.from_numpy(made.targets)
            loss = cross_entropy(targets, torch.ones(targets.numel()))
            hidden = read_pass(decoder, made, expert=expert)
            nats += float(head_loss(hidden, decoder.head.weight, loss))
            size += made.bytes
            if progress is not None:
                progress(done, len(passes))
    return nats / math.log(2) / size


def first_bytes(texts: Iterable[TokenText], most: int | None) -> list[TokenText]:
    """The first texts, until they have `most` bytes; all where it is None."""
    chosen, size = [], 0
    for text in texts:
        if most is not None and size >= most:
            break
        chosen.append(text)
        size += text.bytes
    return chosen
