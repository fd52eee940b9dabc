"""The float32 engine: a checkpoint run by torch, with the passes of the compiled one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from gemcore.models.cache_layout import KEY_BLOCK
from gemcore.models.decoder import LayerCache, new_caches
from gemcore.models.eager import EagerModel
from gemcore.text.chat import ChatTemplate
from gemcore.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gem_suite.engines_text import TokenPair
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.priors import Prior
    from gemcore.scoring import Forward

_GROWTH = 512
"""Cache positions that are added at a time; a multiple of a block."""


class EagerEngine:
    """All arithmetic in float32: what compiled models are compared with.

    Sums depend on what else is in a pass, so a score may differ in its last bits with its neighbours.

    Args:
        checkpoint: the model.
        threads: threads that compute; None: as torch decides.
        context_length: the most tokens to read together; None: as the model allows.
    """

    exact = False
    experts: tuple[str, ...] = ()

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        threads: int | None = None,
        context_length: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        model_limit = checkpoint.config.context_length
        self.context_length = min(context_length or model_limit, model_limit)
        self.slots = model_limit
        # Every token of a pass looks at all slots that are in use, seen or not.
        self.usual_slots = min(model_limit, 1024)
        self.tokenizer = Tokenizer.from_text_data(checkpoint.text)
        self.template = ChatTemplate.from_text_data(checkpoint.text)
        self._decoder = EagerModel(checkpoint).decoder
        self._config = checkpoint.config
        self._caches: list[LayerCache] = []

    def forward(self, prior: Prior | None = None) -> Forward:
        """See `gem_suite.engines.Engine.forward`; there are no experts here."""
        return self._pass

    def groups(
        self, pairs: Sequence[TokenPair]
    ) -> Iterator[tuple[Prior | None, Sequence[TokenPair]]]:
        """See `gem_suite.engines.Engine.groups`."""
        yield None, pairs

    def for_domain(self, domain: str) -> EagerEngine:
        """See `gem_suite.engines.Engine.for_domain`; there is nobody to tell."""
        return self

    def _pass(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.float32]:
        """One pass: logits `[rows, vocabulary]`; see `gemcore.scoring.Forward`."""
        self._reserve(int(placement[:, 1].max()) + 1)
        with torch.inference_mode():
            logits = self._decoder(
                torch.from_numpy(tokens),
                torch.from_numpy(placement),
                torch.from_numpy(rows),
                self._caches,
            )
        result: npt.NDArray[np.float32] = logits.numpy()
        return result

    def _reserve(self, slots: int) -> None:
        """Make room in the cache, whose content stays."""
        held = self._caches[0][1].shape[1] if self._caches else 0
        if slots <= held:
            return
        capacity = -(-slots // _GROWTH) * _GROWTH
        grown = new_caches(self._config, capacity, torch.float32)
        for (keys, values), (new_keys, new_values) in zip(self._caches, grown, strict=False):
            new_keys[:, : held // KEY_BLOCK] = keys
            new_values[:, :held] = values
        self._caches = grown
