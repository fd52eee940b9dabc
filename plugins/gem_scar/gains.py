"""What each expert saves on a text: the language-model loss that a router is fitted by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gem_scar.hidden_states import side_by_side
from gem_suite.engines_text import encode_pair, fit
from gemcore.models.cache_layout import KEY_BLOCK
from gemcore.models.decoder import (
    Decoder,
    ExpertShape,
    dense_schemes,
    load_weights,
    new_caches,
)
from gemcore.models.routed import routed_weights
from gemcore.models.weights import dense_weights
from gemcore.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gem_suite.engines_text import TokenPair
    from gemcore.experts.expert_set import ExpertSet
    from gemcore.experts.files import Expert
    from gemcore.models.checkpoint import Checkpoint

PASS_TOKENS = 512
CHUNK_ROWS = 128
"""Rows of logits at a time."""

Group = list["TokenPair"]


def answer_gains(
    checkpoint: Checkpoint,
    experts: ExpertSet,
    pairs: Sequence[tuple[str, str]],
    longest: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """By how many nats a token each expert, always at work, lowers the loss of answers.

    All arithmetic is float32. The layers before the first delta are run once for all experts.

    Args:
        checkpoint: the base model.
        experts: of that model.
        pairs: a prompt, which may be empty, and its right answer.
        longest: the most tokens of a pair; the beginning of a longer one is left out.
        progress: called with passes done and passes in all.

    Returns:
        float32 `[pairs, experts]`; 0 where an answer has no tokens.
    """
    tokenizer = Tokenizer.from_text_data(checkpoint.text)
    encoded = []
    for prompt, answer in pairs:
        context, said = encode_pair(tokenizer, prompt, answer)
        encoded.append(fit((context, said[:longest]), longest)[0])
    decoder = _decoder(checkpoint, experts)
    groups = list(_groups(encoded))
    first = min(int(unit.split(".")[1]) for unit in experts.units)
    total, done = len(groups) * (len(experts.experts) + 1), 0
    with torch.no_grad():
        begun = [_begin(decoder, group, first) for group in groups]
        losses = []
        for expert in (None, *experts.experts):
            if expert is not None:
                _put_in(decoder, experts.units, expert)
            parts = []
            for group, residual in zip(groups, begun, strict=True):
                parts.append(_losses(decoder, group, residual, first, expert is not None))
                done += 1
                if progress is not None:
                    progress(done, total)
            losses.append(torch.cat(parts))
    return torch.stack([losses[0] - found for found in losses[1:]], 1)


def _decoder(checkpoint: Checkpoint, experts: ExpertSet) -> Decoder:
    """The base model on float arithmetic, with room for one expert."""
    config, units = checkpoint.config, experts.units
    shape = ExpertShape(names=("expert",), rank=experts.rank, layers=frozenset(units))
    with torch.device("meta"):
        decoder = Decoder(config, dense_schemes(config), experts=shape, float_arithmetic=True)
    stacked = experts.stacked()
    deltas = {name: stacked[name][:1].astype(np.float32) for name in stacked}
    load_weights(decoder, routed_weights(dense_weights(checkpoint), shape, deltas))
    return decoder


def _put_in(decoder: Decoder, units: Sequence[str], expert: Expert) -> None:
    parameters = dict(decoder.named_parameters())
    for unit in units:
        for end in ("down", "up"):
            found = expert.tensors.get(f"{unit}.{end}")
            room = parameters[f"{unit}.{end}"]
            room.copy_(torch.zeros(()) if found is None else torch.from_numpy(np.array(found)))


def _groups(pairs: Sequence[TokenPair]) -> Iterator[Group]:
    group: Group = []
    size = 0
    for pair in pairs:
        length = len(pair[0]) + len(pair[1])
        if group and size + length > PASS_TOKENS:
            yield group
            group, size = [], 0
        group.append(pair)
        size += length
    if group:
        yield group


def _through(
    decoder: Decoder, group: Group, x: Tensor, layers: slice, weights: Tensor | None
) -> Tensor:
    lengths = [len(context) + len(said) for context, said in group]
    capacity = -(-sum(lengths) // KEY_BLOCK) * KEY_BLOCK
    caches = new_caches(decoder.config, capacity, torch.float32)
    placement = side_by_side(lengths)
    for layer, cache in list(zip(decoder.layers, caches, strict=True))[layers]:
        x, _ = layer(x, decoder.rotation, placement, cache, None, weights)
    return x


def _begin(decoder: Decoder, group: Group, first: int) -> Tensor:
    """The residual stream before the first layer with deltas."""
    flat = [token for pair in group for token in (*pair[0], *pair[1])]
    x: Tensor = decoder.embedding.embed(torch.tensor(flat, dtype=torch.int32))
    return _through(decoder, group, x, slice(first), None)


def _losses(decoder: Decoder, group: Group, residual: Tensor, first: int, works: bool) -> Tensor:
    """Mean negative log-likelihood of each answer's tokens, in nats: float32 `[pairs]`."""
    weights = torch.ones(len(residual), 1) if works else None
    hidden = decoder.norm(_through(decoder, group, residual, slice(first, None), weights))
    rows: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    start = 0
    for i, (context, said) in enumerate(group):
        begin = start + len(context) - 1
        rows += range(begin, begin + len(said))
        targets += said
        owners += [i] * len(said)
        start += len(context) + len(said)
    nats = [
        torch.nn.functional.cross_entropy(
            decoder.head(hidden[torch.tensor(rows[place : place + CHUNK_ROWS])]),
            torch.tensor(targets[place : place + CHUNK_ROWS]),
            reduction="none",
        )
        for place in range(0, len(rows), CHUNK_ROWS)
    ]
    owner = torch.tensor(owners, dtype=torch.int64)
    sums = torch.zeros(len(group)).index_add_(0, owner, torch.cat(nats or [torch.zeros(0)]))
    return sums / torch.bincount(owner, minlength=len(group)).clamp(min=1)
