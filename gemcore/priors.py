"""The prior of a request: how likely each expert is to be of use, before a word is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError, unknown_name
from gemcore.models.cache_layout import PLACEMENT_FIELDS

if TYPE_CHECKING:
    from gemcore.runtime.executor import Executor
    from gemcore.runtime.kv_cache import KVCache
    from gemcore.text.encoder_tokenizer import EncoderTokenizer
    from gemcore.text.tokenizer import Tokenizer

Prior = npt.NDArray[np.float32]
"""float32 `[experts]`, each at least 0, with a sum of at most 1; all zeros say nothing."""

GivenPrior = Mapping[str, float] | Sequence[float]
"""A prior as a caller gives it: by the experts' names, or in their order."""


@attrs.frozen(kw_only=True)
class TextReader:
    """How a text comes to an encoder, which has tokens of its own.

    Attributes:
        tokenizer: of the model.
        encoder: of the encoder.
    """

    tokenizer: Tokenizer
    encoder: EncoderTokenizer

    def encoder_tokens(self, tokens: Sequence[int]) -> list[int]:
        """What the encoder reads of a text, given in the model's tokens; control tokens are left out."""
        return self.encoder.encode(self.tokenizer.decode(tokens))


@attrs.frozen(kw_only=True)
class Priors:
    """Where the priors of a compiled model come from.

    Attributes:
        experts: names of the model's experts, in the order of the prior.
        longest: the most tokens that are read for it; 0 where no network gives one.
        executor: runs that network.
        cache: what the network may write to.
        reader: turns the text into tokens of the network's own; None where it reads the model's.
    """

    experts: tuple[str, ...]
    longest: int
    executor: Executor
    cache: KVCache
    reader: TextReader | None = None

    @property
    def network(self) -> bool:
        """Whether each text has a prior of its own."""
        return self.longest > 0

    def of(self, tokens: Sequence[int], given: GivenPrior | None = None) -> Prior | None:
        """The prior of a text, or `given`; None for a model without experts.

        Raises UsageError for a prior that is not one, or where there are no experts.
        """
        if not self.experts:
            if given:
                raise UsageError(
                    "a prior was given, but this model has no experts: compile a router"
                )
            return None
        if given is not None:
            return check_prior(given, self.experts)
        if not self.network:
            return np.zeros(len(self.experts), np.float32)
        read = tokens if self.reader is None else self.reader.encoder_tokens(tokens)
        ids = np.array(read[: self.longest], np.int32)
        self.cache.reserve(len(ids))
        placement = np.zeros((len(ids), PLACEMENT_FIELDS), np.int32)
        placement[:, :2] = np.arange(len(ids), dtype=np.int32)[:, None]
        return self.executor.prior(ids, placement, self.cache).copy()


def each_token(
    prior: Prior | None, experts: Sequence[str], tokens: int
) -> npt.NDArray[np.float32] | None:
    """A request's prior for each of its tokens, `[tokens, experts]`; None for a model without experts.

    Where there is no prior, it says nothing: zeros.
    """
    if not experts:
        return None
    row = np.zeros(len(experts), np.float32) if prior is None else prior
    return np.tile(row, (tokens, 1))


def check_prior(given: GivenPrior, experts: Sequence[str]) -> Prior:
    """A caller's prior as an array `[experts]`.

    Raises UsageError for unknown experts, for a wrong count, and for numbers that are no prior.
    """
    if isinstance(given, Mapping):
        for name in given:
            if name not in experts:
                raise unknown_name("expert", name, experts)
        given = [given.get(name, 0.0) for name in experts]
    if len(given) != len(experts):
        raise UsageError(
            f"the prior has {len(given)} numbers, but the model has {len(experts)} experts: "
            f"{', '.join(experts)}"
        )
    values = np.array(given, np.float32)
    if not np.isfinite(values).all() or values.min() < 0 or values.sum() > 1 + 1e-5:
        raise UsageError(
            f"the prior {[float(value) for value in given]} must be numbers of at least 0 with a sum of "
            "at most 1"
        )
    return values
