"""The checks of a router: its weights are shares of experts, and compile to what torch computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from gemcore.testing import material
from gemcore.testing.conformance import PluginConformance, compiles, skip

if TYPE_CHECKING:
    import torch

    from gemcore.models.checkpoint import Checkpoint
    from gemcore.routing import Routing

EXPERTS_OPTION = "experts"
"""A router with an option of this name is given the folder of the suite's experts by it."""


class RouterConformance(PluginConformance):
    """Subclass this and set `plugin` to test a router.

    The router gets three experts of the tiny model: by its option `experts`, where it has one and
    `plugin` does not set it.

    Attributes:
        tolerance: how far compiled weights and logits may be from those of torch.
        text: what is read where a text is needed.
    """

    kind: ClassVar[str] = "router"
    tolerance: ClassVar[float] = 1e-3
    text: ClassVar[str] = material.PROMPT

    def checkpoint(self) -> Checkpoint:
        """The model that the router is put in."""
        return material.checkpoint()

    def options(self) -> Mapping[str, Any]:
        """The suite's experts, for a router that asks for some."""
        from gemcore.options import parse_words

        name = parse_words(self.plugin).name
        known = {option.name for option in self.host().select(self.kind, name).record.options}
        return {EXPERTS_OPTION: str(material.experts().folder)} if EXPERTS_OPTION in known else {}

    def routing(self) -> Routing | None:
        """What the router adds to the model; None for one that never routes."""
        from gemcore.routing import routing_of

        return routing_of(self.create(), self.plugin, self.checkpoint())

    def test_a_prior_is_a_share_for_each_expert(self) -> None:
        """`prior` gives None, or numbers of at least 0 with a sum of at most 1, the same each time."""
        router = self.create()
        given = router.prior(self.text)
        if given is None:
            self.require(
                router.prior("") is None, "it has a prior for an empty text, but none for others"
            )
            return
        count = len(router.experts().names)
        self.require(len(given) == count, f"its prior has {len(given)} numbers for {count} experts")
        self.require(min(given) >= 0, f"its prior holds {min(given)}, which is below 0")
        self.require(sum(given) <= 1 + 1e-6, f"its prior sums to {sum(given)}, above 1")
        self.require(
            list(given) == list(router.prior(self.text)),
            "its prior of one text differs from call to call",
        )

    def test_weights_are_shares_of_the_experts(self) -> None:
        """Float32 `[tokens, experts]` of at least 0, whose rows sum to at most 1, for any count of tokens."""
        import torch

        for layer, module, experts in self._modules():
            for tokens in (1, 7, 33):
                hidden, prior = self._inputs(tokens, experts)
                weights = _call(module, hidden, prior)
                where = f"its weights at layer {layer} for {tokens} tokens"
                self.require(
                    isinstance(weights, torch.Tensor) and tuple(weights.shape) == (tokens, experts),
                    f"{where} have the shape {_shape_of(weights)}, not [{tokens}, {experts}]",
                )
                self.require(
                    weights.dtype == torch.float32,
                    f"{where} are {weights.dtype}, not torch.float32",
                )
                self.require(
                    bool(torch.isfinite(weights).all()), f"{where} are not all finite numbers"
                )
                lowest, highest = float(weights.min()), float(weights.sum(-1).max())
                self.require(lowest >= 0, f"{where} hold {lowest:g}, which is below 0")
                self.require(highest <= 1 + 1e-4, f"{where} sum to {highest:g} in a row, above 1")

    def test_odd_inputs_give_numbers(self) -> None:
        """Hidden states of zeros or of large numbers, and a prior of zeros, give finite weights."""
        import torch

        for layer, module, experts in self._modules():
            hidden, prior = self._inputs(5, experts)
            for name, scale in (("zeros", 0.0), ("large numbers", 1e4), ("tiny numbers", 1e-8)):
                for given in (prior, torch.zeros_like(prior)):
                    weights = _call(module, hidden * scale, given)
                    self.require(
                        bool(torch.isfinite(weights).all()),
                        f"its weights at layer {layer} are not finite for hidden states of {name}",
                    )

    def test_each_token_is_routed_alone(self) -> None:
        """A token's weights depend on its own hidden state and prior, on no other token's."""
        import torch

        for layer, module, experts in self._modules():
            hidden, prior = self._inputs(9, experts)
            together = _call(module, hidden, prior)
            alone = [_call(module, hidden[[i]], prior[[i]]) for i in range(len(hidden))]
            difference = float((torch.cat(alone) - together).abs().max())
            self.require(
                difference <= 1e-4,
                f"a token's weights at layer {layer} change by {difference:g} with the tokens beside it: "
                "prompts that are read in pieces would be routed otherwise",
            )

    def test_the_same_twice(self) -> None:
        """The same input gives the same bits, from the same module and from a fresh one."""
        import torch

        fresh = self._modules()
        for layer, module, experts in self._modules():
            hidden, prior = self._inputs(9, experts)
            first = _call(module, hidden, prior)
            again = _call(next(fresh)[1], hidden, prior)
            self.require(
                torch.equal(first, _call(module, hidden, prior)) and torch.equal(first, again),
                f"its weights at layer {layer} differ from call to call",
            )

    def test_content_names_what_the_model_depends_on(self) -> None:
        """`content()`, where there is one, is text that is the same for the same router."""
        first, second = self.create(), self.create()
        if not hasattr(first, "content"):
            if self.routing() is not None:
                skip(
                    "it has no content(): changed experts would not make a new bundle in the cache"
                )
            return
        self.require(isinstance(first.content(), str), "its content() is no text")
        self.require(first.content() == second.content(), "its content() differs from time to time")

    def test_modules_export(self) -> None:
        """torch.export traces each module for any number of tokens, and the trace computes the same."""
        import torch

        count = torch.export.Dim("tokens", min=1, max=512)
        for layer, module, experts in self._modules():
            hidden, prior = self._inputs(9, experts)
            sizes = {name: {0: count} for name in _parameters(module)}
            try:
                traced = torch.export.export(module, (hidden, prior), dynamic_shapes=sizes).module()
            except Exception as error:  # whatever torch makes of it
                reason = str(error).strip().splitlines()[0]
                raise AssertionError(
                    f"{self.title}: torch.export cannot trace its module of layer {layer}: {reason}"
                ) from error
            for tokens in (1, 4):
                found = traced(hidden[:tokens], prior[:tokens])
                difference = float(
                    (found - _call(module, hidden[:tokens], prior[:tokens])).abs().max()
                )
                self.require(
                    difference <= 1e-6,
                    f"its traced module of layer {layer} differs by {difference:g} for {tokens} tokens",
                )

    @compiles
    def test_compiled_it_routes_as_in_torch(self) -> None:
        """In a compiled model its weights and the logits are those of torch, and zero rows stay zero."""
        import numpy as np

        from gemcore.testing.compiled import compiled_and_eager

        if self.routing() is None:
            skip("it never routes")
        found = compiled_and_eager(
            self.create(), self.plugin, self.checkpoint(), self.host(), self.text
        )
        for name, compiled, eager in (
            ("weights", found.routes, found.eager_routes),
            ("logits", found.logits, found.eager_logits),
        ):
            difference = float(np.abs(compiled - eager).max())
            self.require(
                difference <= self.tolerance,
                f"compiled, its {name} differ from torch's by {difference:g}, more than {self.tolerance:g}",
            )
        idle = ~found.eager_routes.any(-1)
        self.require(
            not found.routes[idle].any(), "compiled, experts work for tokens of the general path"
        )

    def _modules(self) -> Iterator[tuple[int, torch.nn.Module, int]]:
        """Each layer that routes: its index, its module, and the number of experts."""
        routing = self.routing()
        if routing is None:
            return
        for layer, module in enumerate(routing.modules):
            if module is not None:
                yield layer, module.eval(), len(routing.experts.names)

    def _inputs(self, tokens: int, experts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states `[tokens, hidden]`, and priors `[tokens, experts]`, some of them of zeros."""
        import torch

        generator = torch.Generator().manual_seed(tokens)
        hidden = torch.randn(tokens, self.checkpoint().config.hidden_size, generator=generator)
        prior = torch.rand(tokens, experts, generator=generator) / experts
        prior[::3] = 0
        return hidden, prior


def _call(module: torch.nn.Module, hidden: torch.Tensor, prior: torch.Tensor) -> Any:
    import torch

    with torch.no_grad():
        return module(hidden, prior)


def _parameters(module: torch.nn.Module) -> Mapping[str, Any]:
    """Parameters of the module's `forward`, whatever its author calls them."""
    import inspect

    return inspect.signature(module.forward).parameters


def _shape_of(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else str(list(shape))
