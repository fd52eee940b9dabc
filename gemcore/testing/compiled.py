"""A routed model compiled, beside the same model in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.testing import material

if TYPE_CHECKING:
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.plugins import PluginHost
    from gemcore.protocols import Router

Floats = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True, eq=False)
class CompiledAndEager:
    """What both say of one text.

    Attributes:
        logits, eager_logits: `[tokens, vocabulary]`.
        routes, eager_routes: `[tokens, experts]`, the mean over the layers that route.
    """

    logits: Floats
    eager_logits: Floats
    routes: Floats
    eager_routes: Floats


def compiled_and_eager(
    router: Router, words: str, checkpoint: Checkpoint, host: PluginHost, text: str
) -> CompiledAndEager:
    """Compile a model with a router for this machine, and read a text by it and by torch.

    `words` is what messages call the router.

    Raises:
        GemError: the model cannot be compiled or run.
    """
    import torch

    from gemcore.api import build_parts, open_session
    from gemcore.build import compile_bundle
    from gemcore.bundle import WEIGHTS
    from gemcore.models.eager import EagerModel
    from gemcore.recipe import Recipe
    from gemcore.routing import routing_of
    from gemcore.runtime.mapped_weights import map_weights

    parts = build_parts(Recipe(), host)
    parts = attrs.evolve(parts, router=router, names={**parts.names, "router": words})
    bundle = compile_bundle(checkpoint, parts, material.new_folder("bundle") / "routed.gem")
    session = open_session(bundle.folder, threads=1, host=host)
    tokens = session.tokenizer.encode_prompt(text)
    routes = session.routes(tokens)
    logits = session.logits(tokens)

    routing = routing_of(router, words, checkpoint)
    assert routing is not None
    manifest = bundle.manifest
    names = [name for name in manifest.weights if not name.startswith("prior.")]
    arrays = map_weights(bundle.folder / WEIGHTS, names)
    eager = EagerModel(
        checkpoint,
        dict(manifest.plan),
        dict(zip(names, arrays, strict=True)),
        cache=manifest.kv_cache,
        router=routing.modules,
        experts=routing.shape(),
    )
    seen: list[torch.Tensor] = []
    watched = {id(module): module for module in routing.modules if module is not None}
    handles = [
        module.register_forward_hook(lambda *passed: seen.append(passed[-1]))
        for module in watched.values()
    ]
    prior = session.prior_of(tokens)
    eager_logits = eager.logits(tokens, None if prior is None else prior.tolist())
    for handle in handles:
        handle.remove()
    return CompiledAndEager(
        logits=logits,
        eager_logits=eager_logits,
        routes=routes.weights,
        eager_routes=torch.stack(seen).mean(0).numpy(),
    )
