"""Which experts worked for which token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gemcore.bundle import Manifest
    from gemcore.priors import Prior
    from gemcore.text.tokenizer import Tokenizer

GENERAL = "general path"
"""What a token without experts takes."""


@attrs.frozen(kw_only=True)
class ExpertUse:
    """How much one expert worked in a text.

    Attributes:
        name: of the expert.
        prior: of the whole text.
        strongest: tokens for which no expert has a higher weight.
        works: tokens for which it works at all.
        weight: its mean weight over those; 0 where it does not work.
    """

    name: str
    prior: float
    strongest: int
    works: int
    weight: float


@attrs.frozen(kw_only=True, eq=False)
class Routes:
    """What the routers of a model said of the tokens of a text.

    Attributes:
        token_ids: the text.
        pieces: text of each token; joined, they are the whole. A character of several tokens is in the
            piece of the last of them, and the others are empty.
        experts: names of the experts.
        weights: float32 `[tokens, experts]`: the mean over the layers that have a router, of which SCAR
            has only one.
        prior: float32 `[experts]` of the whole text.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    experts: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    prior: Prior

    @property
    def strongest(self) -> npt.NDArray[np.int64]:
        """For each token the expert with the highest weight; -1 on the general path: int64 `[tokens]`."""
        found: npt.NDArray[np.int64] = np.where(
            self.weights.max(axis=1) > 0, self.weights.argmax(axis=1), -1
        )
        return found

    @property
    def general_share(self) -> float:
        """Share of the tokens for which no expert works at any layer."""
        return float((self.strongest < 0).mean())

    def uses(self) -> list[ExpertUse]:
        """How much each expert worked, in the order of the experts."""
        strongest, works = self.strongest, self.weights > 0
        counts = works.sum(axis=0)
        sums = self.weights.sum(axis=0, dtype=np.float64)
        return [
            ExpertUse(
                name=name,
                prior=float(self.prior[i]),
                strongest=int((strongest == i).sum()),
                works=int(counts[i]),
                weight=float(sums[i] / counts[i]) if counts[i] else 0.0,
            )
            for i, name in enumerate(self.experts)
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; weights, prior and share rounded to three places."""
        return {
            "experts": list(self.experts),
            "prior": _rounded(self.prior),
            "general_share": round(self.general_share, 3),
            "pieces": list(self.pieces),
            "weights": [_rounded(row) for row in self.weights],
        }


def check_experts(manifest: Manifest) -> None:
    """Raise UsageError for a model without experts, whose tokens have only one way to go."""
    if not manifest.experts:
        raise UsageError(
            f"router '{manifest.router}' has no experts, so every token takes the {GENERAL} and there is "
            "no routing to show: choose one with experts by --router, for example scar"
        )


def token_pieces(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token, control tokens included; joined, they are the text of all."""
    decoder = tokenizer.incremental_decoder(special=True)
    pieces = [decoder.push(token_id) for token_id in token_ids]
    if pieces:
        pieces[-1] += decoder.finish()
    return tuple(pieces)


def _rounded(values: npt.NDArray[np.float32]) -> list[float]:
    return [round(float(value), 3) for value in values]
