"""A checkpoint run by torch, uncompiled: the reference that compiled models are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gemcore.models.cache_layout import DEFAULT_CACHE, KEY_BLOCK
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.decoder import (
    Decoder,
    ExpertShape,
    causal_placement,
    dense_schemes,
    load_weights,
    new_caches,
)
from gemcore.models.weights import Weights, dense_weights


class EagerModel:
    """A decoder in torch, for whole texts.

    Args:
        checkpoint: the model.
        schemes, weights: of a plan; without them everything is float32, and so is all arithmetic.
        cache: scheme of the cache of a model with a plan.
        router, experts: of a routed model, as `Decoder` has them; its weights must be given, and have names
            as `gemcore.models.routed.routed_weights` gives them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        schemes: Mapping[str, str] | None = None,
        weights: Weights | None = None,
        cache: str = DEFAULT_CACHE,
        *,
        router: Sequence[nn.Module | None] = (),
        experts: ExpertShape | None = None,
    ) -> None:
        self.config, self._cache = checkpoint.config, cache
        exact = schemes is not None
        with torch.device("meta"):
            self.decoder = Decoder(
                self.config,
                schemes or dense_schemes(self.config),
                router=router,
                experts=experts,
                float_arithmetic=not exact,
                cache=cache,
            ).eval()
        load_weights(self.decoder, weights if weights is not None else dense_weights(checkpoint))
        self._dtype = None if exact else torch.float32

    def logits(
        self, tokens: Sequence[int], prior: Sequence[float] | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits after every token of a text: float32 `[tokens, vocabulary]`.

        `prior` `[experts]` is that of the whole text; without it the base model works alone.
        """
        count = len(tokens)
        capacity = -(-count // KEY_BLOCK) * KEY_BLOCK
        caches = new_caches(self.config, capacity, self._dtype, scheme=self._cache)
        ids = torch.tensor(tokens, dtype=torch.int32)
        rows = torch.arange(count, dtype=torch.int32)
        each = None if prior is None else torch.tensor(prior).float().expand(count, -1)
        with torch.no_grad():
            logits = self.decoder(ids, causal_placement(0, count), rows, caches, each)
        result: npt.NDArray[np.float32] = logits.numpy()
        return result
