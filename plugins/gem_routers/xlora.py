"""`xlora`: a learned head mixes all experts for every token.

X-LoRA (arXiv 2402.07148) learns scalings of all adapters from the hidden states of a first pass, and
uses them densely in a second one. Here the head reads the first layer that has deltas, so one pass is
enough, and it learns whose text a token is from. It never says none: that is what to compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gem_routers.opening import first_layer
from gem_scar.examples import GENERAL, Example, check_labels, sources_of
from gem_scar.fitted import FittedRouter, open_experts, read_fitted_for, tensor, write_fitted
from gemcore.errors import UsageError
from gemcore.models import ops

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet

NAME = "xlora"


class DenseMixture(nn.Module):
    """Softmax of a linear map of a token's hidden state: every expert works, with its share."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]` to weights `[tokens, experts]`."""
        return torch.softmax(ops.linear_f32(hidden, self.weight) + self.bias, dim=-1)


class MixingRouter:
    """Mixes the experts by a fitted head, `router.xlora.safetensors` beside them.

    Args:
        experts: a set's name or its folder; None for the default set.
    """

    def __init__(self, experts: str | None = None) -> None:
        self._choice = experts

    def prior(self, prompt: str) -> None:
        """Have no opinion on any prompt."""

    def experts(self) -> ExpertSet:
        """The experts that are mixed."""
        return self._fitted[0]

    def layer_module(self, layer: int) -> nn.Module | None:
        """The head, at the first layer with deltas; UsageError where none was fitted."""
        experts, fitted = self._fitted
        if layer != first_layer(experts):
            return None
        bias = tensor(fitted, "bias", (len(experts.names),), experts.folder)
        weight = tensor(fitted, "weight", (len(bias), None), experts.folder)
        return DenseMixture(torch.from_numpy(weight), torch.from_numpy(bias))

    def content(self) -> str:
        """The experts and the fitted head."""
        experts, fitted = self._fitted
        return hashlib.sha256(f"{experts.digest}\n{fitted.digest}".encode()).hexdigest()

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Learn the head from pairs of a text and an expert's name; `none` is passed over."""
        found = [Example(text=text, label=label, source=label) for text, label in examples]
        self.fit_examples(found, {})

    def fit_examples(
        self,
        examples: Sequence[Example],
        options: Mapping[str, Any],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[str]:
        """Learn the head and write its file; options are those of `gem_scar.fit_options.FitOptions`."""
        from gem_scar.fit_options import FitOptions
        from gem_scar.gather import gather, ignore
        from gem_scar.hidden_states import base_checkpoint
        from gem_scar.train import train_head

        experts = open_experts(self._choice)
        if experts.folder is None:
            raise UsageError("a router is fitted for experts in a folder, and these are in none")
        examples = [example for example in examples if example.label != GENERAL]
        check_labels(examples, experts.names)
        checkpoint = base_checkpoint(experts)
        settings = FitOptions(**{"layer": first_layer(experts), **options})
        report = progress or ignore
        data = gather(checkpoint, examples, experts.names, settings, report)
        weight, bias = train_head(data, len(experts.names), settings)
        fitted = FittedRouter(
            router=NAME,
            base=experts.base,
            experts=experts.names,
            sha256=tuple(expert.digest for expert in experts.experts),
            settings={"data": sources_of(examples)},
            tensors={"weight": weight.numpy(), "bias": bias.numpy()},
        )
        return [f"wrote {write_fitted(experts.folder, fitted)}"]

    @cached_property
    def _fitted(self) -> tuple[ExpertSet, FittedRouter]:
        return read_fitted_for(open_experts(self._choice), NAME)
