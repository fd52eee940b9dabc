"""Choosing the next token from logits. NumPy only.

The order and meaning of the filters are those of Hugging Face transformers: repetition penalty,
temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
TokenIds = npt.NDArray[np.int64]


def _number(rule: str, allowed: Callable[[float], bool]) -> Callable[[Any, Any, Any], None]:
    def check(instance: Any, attribute: Any, value: Any) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not allowed(value):
            raise UsageError(f"{attribute.name} must be {rule}, not {value!r}")

    return check


def _whole(rule: str) -> Callable[[Any, Any, Any], None]:
    def check(instance: Any, attribute: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"{attribute.name} must be {rule}, not {value!r}")

    return check


@attrs.frozen(kw_only=True)
class SamplingSettings:
    """How the next token is chosen. The defaults choose the most probable one.

    Attributes:
        temperature: divides the logits; 0 chooses the most probable token.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches this (nucleus sampling,
            arXiv 1904.09751); 1 keeps all.
        min_p: drop tokens below this share of the highest probability (arXiv 2407.01082).
        repetition_penalty: divides positive and multiplies negative logits of tokens that are in
            the text already (CTRL, arXiv 1909.05858); 1 changes nothing.
        seed: of the random numbers; None takes one from the system.
    """

    temperature: float = attrs.field(
        default=0.0, validator=_number("a number of at least 0", lambda value: value >= 0)
    )
    top_k: int = attrs.field(default=0, validator=_whole("a whole number of at least 0"))
    top_p: float = attrs.field(
        default=1.0, validator=_number("above 0 and at most 1", lambda value: 0 < value <= 1)
    )
    min_p: float = attrs.field(
        default=0.0, validator=_number("from 0 to 1", lambda value: 0 <= value <= 1)
    )
    repetition_penalty: float = attrs.field(
        default=1.0, validator=_number("a number above 0", lambda value: value > 0)
    )
    seed: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_whole("a whole number of at least 0"))
    )


def penalize_repetition(logits: Float32, recent: Sequence[int], penalty: float) -> Float32:
    """Logits `[vocabulary]` with those of the `recent` ids made less likely; a fresh array."""
    ids = np.asarray(recent, dtype=np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < logits.size:
        raise UsageError(
            f"recent token ids run from {ids.min()} to {ids.max()}, but there are {logits.size} "
            "logits"
        )
    penalized = logits.copy()
    chosen = logits[ids]
    # A token that comes twice is written twice with the same value: it is penalized once.
    penalized[ids] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
    return penalized


def keep_top_k(scores: Float32, k: int) -> TokenIds:
    """Ids of the k highest of `scores` `[vocabulary]`, and of those equal to the k-th."""
    if k == 0 or k >= scores.size:
        return np.arange(scores.size)
    kth = np.partition(scores, scores.size - k)[scores.size - k]
    return np.flatnonzero(scores >= kth)


def keep_top_p(probabilities: Float64, top_p: float) -> npt.NDArray[np.bool_]:
    """Which of `probabilities` `[tokens]`, of sum 1, are the smallest set that reaches `top_p`."""
    keep = np.zeros(probabilities.size, dtype=np.bool_)
    rest = 1.0 - top_p
    # All tokens below rest / n together weigh less than `rest`, so they go without being sorted.
    likely = np.flatnonzero(probabilities >= rest / probabilities.size)
    order = likely[np.argsort(probabilities[likely], kind="stable")]
    unlikely_mass = 1.0 - probabilities[likely].sum()
    cumulative = unlikely_mass + np.cumsum(probabilities[order])
    kept = order[cumulative > rest]
    # Rounding may leave nothing when top_p is tiny; the most probable token always stays.
    keep[kept if kept.size else np.argmax(probabilities)] = True
    return keep


def _softmax(scores: Float32) -> Float64:
    exponentials = np.exp(scores.astype(np.float64) - scores.max())
    result: Float64 = exponentials / exponentials.sum()
    return result


@attrs.define(eq=False)
class Sampler:
    """Draws tokens; two samplers with the same settings and seed draw the same ones."""

    settings: SamplingSettings
    _random: np.random.Generator | None = attrs.field(default=None, init=False)

    @property
    def looks_back(self) -> bool:
        """Whether the choice depends on `recent`; if not, it need not be given."""
        return self.settings.repetition_penalty != 1.0

    def sample(self, logits: Float32, recent: Sequence[int] = ()) -> int:
        """The next token, from float32 logits `[vocabulary]`.

        `recent` are the ids so far, prompt included; only the repetition penalty looks at them.
        Equal logits at temperature 0: the lowest id. Logits that are not numbers raise GemError.
        """
        logits = self._penalized(logits, recent)
        if self.settings.temperature == 0.0:
            return _highest(logits)
        ids, probabilities = self._filtered(logits)
        cumulative = np.cumsum(probabilities)
        if self._random is None:
            # Only now: NumPy loads its random numbers when they are first asked for.
            self._random = np.random.default_rng(self.settings.seed)
        place = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(int(place), ids.size - 1)])

    def distribution(self, logits: Float32, recent: Sequence[int] = ()) -> tuple[TokenIds, Float64]:
        """What `sample` draws from: token ids `[kept]`, ascending, and their probabilities."""
        logits = self._penalized(logits, recent)
        if self.settings.temperature == 0.0:
            return np.array([_highest(logits)]), np.ones(1)
        return self._filtered(logits)

    def _penalized(self, logits: Float32, recent: Sequence[int]) -> Float32:
        if logits.ndim != 1 or logits.size == 0:
            raise UsageError(f"logits of shape {list(logits.shape)} must be [vocabulary]")
        if not self.looks_back:
            return logits
        return penalize_repetition(logits, recent, self.settings.repetition_penalty)

    def _filtered(self, logits: Float32) -> tuple[TokenIds, Float64]:
        settings = self.settings
        # From the highest logit down, so that a tiny temperature cannot overflow.
        with np.errstate(over="ignore"):
            scores = (logits - logits[_highest(logits)]) / np.float32(
                max(settings.temperature, float(np.finfo(np.float32).tiny))
            )
        ids = keep_top_k(scores, settings.top_k)
        probabilities = _softmax(scores[ids])
        if settings.top_p < 1.0:
            keep = keep_top_p(probabilities, settings.top_p)
            ids, probabilities = ids[keep], probabilities[keep]
        if settings.min_p > 0.0:
            keep = probabilities >= settings.min_p * probabilities.max()
            ids, probabilities = ids[keep], probabilities[keep]
        return ids, probabilities / probabilities.sum()


def _highest(logits: Float32) -> int:
    """The lowest id of the highest logit; NaN counts as highest, so it is found here at no cost."""
    best = int(logits.argmax())
    if not math.isfinite(logits[best]):
        raise GemError(
            f"the model gave {float(logits[best])} as the logit of token {best}, which is not a "
            "finite number: its weights or the compiled kernels are damaged"
        )
    return best
