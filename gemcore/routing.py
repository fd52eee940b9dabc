"""What a router adds to a model: experts, modules that choose among them, and the prior of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from gemcore.errors import UsageError

if TYPE_CHECKING:
    import torch

    from gemcore.experts.expert_set import ExpertSet
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.decoder import ExpertShape
    from gemcore.protocols import Router


@attrs.frozen(kw_only=True, eq=False)
class EarlyPrior:
    """A prior that the base model's own first layers give: no second network is needed.

    Attributes:
        layers: how many decoder layers read the prompt for it, at least 0 (the embedding alone).
        module: from the residual stream after those layers, float32 `[tokens, hidden]` of one prompt,
            to the prior, float32 `[experts]` of numbers of at least 0 with a sum of at most 1.
        longest: the most tokens that are read for it, from the prompt's beginning.
    """

    layers: int
    module: torch.nn.Module
    longest: int = 512


@attrs.frozen(kw_only=True, eq=False)
class EncoderPrior:
    """A prior that a network of its own gives, which reads the prompt's text in tokens of its own.

    Attributes:
        module: from token ids, int32 `[tokens]` of one text, to the prior, float32 `[experts]` of numbers
            of at least 0 with a sum of at most 1.
        tokenizer_json: a `tokenizer.json`, with what goes around a text in its post-processor.
        longest: the most tokens that are read, those around the text included.
    """

    module: torch.nn.Module
    tokenizer_json: str
    longest: int = 128


PriorNetwork = EarlyPrior | EncoderPrior
"""What gives the prior of a request in the compiled model."""


@attrs.frozen(kw_only=True, eq=False)
class Routing:
    """A router with all that a compiled model needs of it.

    Attributes:
        experts: what it chooses among.
        modules: for each decoder layer its module; None where the last one's weights go on.
        prior: the network that gives the prior of a request; None where the router has none.
    """

    experts: ExpertSet
    modules: tuple[torch.nn.Module | None, ...]
    prior: PriorNetwork | None = None

    def shape(self) -> ExpertShape:
        """The experts as the decoder knows them."""
        from gemcore.models.decoder import ExpertShape

        return ExpertShape(
            names=self.experts.names, rank=self.experts.rank, layers=frozenset(self.experts.units)
        )


def routing_of(router: Router, name: str, checkpoint: Checkpoint) -> Routing | None:
    """Ask a router what it adds to a model; None where that is nothing.

    `name` is what the user typed, for messages.

    Raises:
        UsageError: the router chooses among experts and has none, or has experts and never chooses, or its
            experts are for another model.
        FormatError: an expert has a delta that the model has no place for.
    """
    give_experts = getattr(router, "experts", None)
    experts = None if give_experts is None else give_experts()
    if experts is not None:
        experts.check_base(checkpoint)
    layers = checkpoint.config.layers
    modules = tuple(router.layer_module(layer) for layer in range(layers))
    chooses = any(module is not None for module in modules)
    if experts is None and not chooses:
        return None
    if experts is None:
        raise UsageError(
            f"router '{name}' chooses among experts, but gives none: its method experts() must return "
            "a set of them, or use --router none"
        )
    if not chooses:
        raise UsageError(
            f"router '{name}' has {len(experts.names)} experts and a module for none of the {layers} "
            "layers, so none would ever work: use --router none"
        )
    give_prior = getattr(router, "prior_network", None)
    return Routing(
        experts=experts, modules=modules, prior=None if give_prior is None else give_prior()
    )


def routing_content(router: Router) -> str:
    """What a compiled model depends on beside the router's options; empty for a router without it."""
    content = getattr(router, "content", None)
    return "" if content is None else str(content())
