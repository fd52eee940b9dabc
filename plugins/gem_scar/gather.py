"""Hidden states of labelled texts: what is trained on, in a form that fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from gem_scar import encoder_files
from gem_scar.embed import embed
from gem_scar.examples import GENERAL, Example
from gem_scar.fit_options import FitOptions
from gem_scar.hidden_states import FirstLayers
from gem_scar.prior import pooled
from gemcore.models.checkpoint import Checkpoint

Progress = Callable[[str, int, int], None]


def ignore(name: str, done: int, total: int) -> None:
    """Progress that nobody wants to see."""


@attrs.frozen(kw_only=True, eq=False)
class Gathered:
    """States of texts and of some of their tokens.

    Attributes:
        labels: int64 `[texts]`: the expert's index, or the number of experts for the general path.
        sources: int64 `[texts]`: numbers that are equal for texts from one benchmark or file.
        pooled: float32 `[texts, 2 * hidden]`, what the early prior classifies.
        states: float32 `[points, hidden]`, after the norm of the routing layer.
        owners: int64 `[points]`: which text a state is from.
        gains: float32 `[texts, experts]`: by how many nats a token each expert lowers the loss of answers
            to texts of this source; None where it was not measured.
        embedded: float32 `[texts, width]`, what the sentence encoder makes of each text; None where it was
            not asked.
        encoder: digest of its weights.
    """

    labels: Tensor
    sources: Tensor
    pooled: Tensor
    states: Tensor
    owners: Tensor
    gains: Tensor | None = None
    embedded: Tensor | None = None
    encoder: str = ""

    def of_texts(self, chosen: Tensor) -> Gathered:
        """The texts where bool `chosen` `[texts]` is true, with their states."""
        place = torch.cumsum(chosen, 0) - 1
        points = chosen[self.owners]
        return Gathered(
            labels=self.labels[chosen],
            sources=self.sources[chosen],
            pooled=self.pooled[chosen],
            states=self.states[points],
            owners=place[self.owners[points]],
            gains=None if self.gains is None else self.gains[chosen],
            embedded=None if self.embedded is None else self.embedded[chosen],
            encoder=self.encoder,
        )

    def useful(self, choices: Tensor, owners: Tensor) -> Tensor:
        """Whether an expert chosen for a text is worth it: bool `[n]`.

        It is where it lowers the loss of answers, or, where that was not measured, is the text's own.

        Args:
            choices: int64 `[n]`: experts.
            owners: int64 `[n]`: the texts they are chosen for.
        """
        if self.gains is None:
            return choices == self.labels[owners]
        return self.gains[owners, choices] > 0


def gather(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    experts: Sequence[str],
    options: FitOptions,
    progress: Progress = ignore,
) -> Gathered:
    """Run the first layers over the examples, and the sentence encoder where the options ask for it.

    Args:
        checkpoint: the base model.
        examples: labelled with names of `experts`, or `none`.
        experts: in the order of the weights.
        options: which layers, and how much of each text.
        progress: called with the name of the step, the texts done and all texts.

    Raises GemError when the encoder cannot be fetched.
    """
    files = None
    if options.prior == "encoder":
        files = encoder_files.minilm_files(partial(progress, "fetching the encoder"))
    layer, prior_layers = options.layer, min(options.prior_layers, options.layer)
    net = FirstLayers(checkpoint, layer, options.longest)
    generator = torch.Generator().manual_seed(options.seed)
    read = [net.chat_tokens(e.text) if e.chat else net.tokens(e.text) for e in examples]
    found = net.states(
        read,
        (prior_layers, layer),
        lambda done, total: progress("reading texts", done, total),
    )
    means, states, owners = [], [], []
    for text, after in enumerate(found):
        means.append(pooled(after[prior_layers]))
        order = torch.randperm(len(after[layer]), generator=generator)[: options.tokens]
        states.append(net.norm(after[layer])[order.sort().values].detach())
        owners += [text] * len(order)
    indices = {name: i for i, name in enumerate(experts)} | {GENERAL: len(experts)}
    sources = {source: i for i, source in enumerate(dict.fromkeys(e.source for e in examples))}
    return Gathered(
        labels=torch.tensor([indices[example.label] for example in examples]),
        sources=torch.tensor([sources[example.source] for example in examples]),
        pooled=torch.stack(means),
        states=torch.cat(states),
        owners=torch.tensor(owners),
        embedded=None
        if files is None
        else embed([net.text(tokens) for tokens in read], files, progress),
        encoder="" if files is None else files.digest,
    )
