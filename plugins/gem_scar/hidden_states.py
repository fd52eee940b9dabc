"""Hidden states of a base model's first layers: what routers are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from gemcore.experts.expert_set import ExpertSet
from gemcore.models.cache_layout import KEY_BLOCK
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.decoder import Decoder, dense_schemes, load_weights, new_caches
from gemcore.models.weights import dense_weights
from gemcore.text.chat import ChatTemplate
from gemcore.text.tokenizer import Tokenizer

PASS_TOKENS = 512
"""Tokens of short texts that are read together."""


class FirstLayers:
    """The first layers of a model, in float32, for many texts.

    Args:
        checkpoint: the model; no more of it is read than the layers asked for.
        layers: how many decoder layers to run.
        longest: the most tokens of a text that are read, from its beginning.
    """

    def __init__(self, checkpoint: Checkpoint, layers: int, longest: int = 256) -> None:
        # One layer more, whose first norm is the last thing that is used of it.
        whole = checkpoint.config
        self.config = attrs.evolve(whole, layers=min(layers + 1, whole.layers), tied_head=True)
        self.layers, self.longest = layers, longest
        self._tokenizer = Tokenizer.from_text_data(checkpoint.text)
        self._template = ChatTemplate.from_text_data(checkpoint.text)
        with torch.device("meta"):
            self._decoder = Decoder(
                self.config, dense_schemes(self.config), float_arithmetic=True
            ).eval()
        load_weights(self._decoder, dense_weights(attrs.evolve(checkpoint, config=self.config)))

    def tokens(self, text: str) -> list[int]:
        """The token ids of a text, as a prompt would begin, cut to `longest`; at least one."""
        return (self._tokenizer.encode_prompt(text) or [0])[: self.longest]

    def chat_tokens(self, text: str) -> list[int]:
        """The token ids of a chat that a user begins with a text, cut to `longest`.

        A model without a chat template reads the text as it is.
        """
        if self._template.source is None:
            return self.tokens(text)
        said = [{"role": "user", "content": text}]
        return self._template.encode(self._tokenizer, said)[: self.longest]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens without control tokens: what a sentence encoder gets to read."""
        return self._tokenizer.decode(tokens)

    def norm(self, residual: Tensor) -> Tensor:
        """The attention norm of the layer after the last one that was run: what its router reads."""
        normed: Tensor = self._decoder.layers[self.layers].attention_norm(residual)
        return normed

    def states(
        self,
        texts: Sequence[Sequence[int]],
        after: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[dict[int, Tensor]]:
        """The residual stream after some numbers of layers, text by text, in order.

        Args:
            texts: token ids of each text.
            after: how many layers, each from 0 (the embedding) to `layers`.
            progress: called with the texts done and the texts in all.

        Yields:
            For each of `after` float32 `[tokens, hidden]`.
        """
        done = 0
        for group in _groups(texts):
            with torch.no_grad():
                found = self._read(group, frozenset(after))
            start = 0
            for tokens in group:
                end = start + len(tokens)
                yield {layers: states[start:end] for layers, states in found.items()}
                start = end
            done += len(group)
            if progress is not None:
                progress(done, len(texts))

    def _read(self, group: Sequence[Sequence[int]], after: frozenset[int]) -> dict[int, Tensor]:
        flat = [token for tokens in group for token in tokens]
        capacity = -(-len(flat) // KEY_BLOCK) * KEY_BLOCK
        caches = new_caches(self.config, capacity, torch.float32)
        placement = side_by_side([len(tokens) for tokens in group])
        x: Tensor = self._decoder.embedding.embed(torch.tensor(flat, dtype=torch.int32))
        found = {0: x} if 0 in after else {}
        rotation = self._decoder.rotation
        for i in range(max(after)):
            # Without a prior no expert works.
            x, _ = self._decoder.layers[i](x, rotation, placement, caches[i], None, None)
            if i + 1 in after:
                found[i + 1] = x
        return found


def base_checkpoint(experts: ExpertSet) -> Checkpoint:
    """The base model of a set, by the name that the set has for it.

    Raises:
        UsageError: no source has it, or it is not what the experts were made for.
    """
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host

    checkpoint = load_checkpoint(experts.base_name, get_host())
    experts.check_base(checkpoint)
    return checkpoint


def side_by_side(lengths: Sequence[int]) -> Tensor:
    """Placement of several texts in one pass, each seeing itself alone: int32 `[tokens, 5]`."""
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    slots = np.arange(sum(lengths))
    nothing = np.zeros_like(slots)
    rows = np.stack([slots - starts, slots, nothing, nothing, starts], axis=1)
    return torch.from_numpy(rows.astype(np.int32))


def _groups(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    group: list[Sequence[int]] = []
    for tokens in texts:
        if group and sum(map(len, group)) + len(tokens) > PASS_TOKENS:
            yield group
            group = []
        group.append(tokens)
    if group:
        yield group
