"""The expected KL divergence of each weight in each precision: the table that plans are made from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
import torch

from gem_hybrid.assignment import Choice
from gem_hybrid.calibration import Calibration
from gem_hybrid.rounding import (
    RoundingOrder,
    round_calibrated,
    rounding_order,
    row_errors,
)
from gem_hybrid.statistics import Term, measure_terms, rounding_hessian
from gemcore.cache import cache_folder, cache_root, write_atomically
from gemcore.errors import FormatError, GemError, UsageError
from gemcore.formats.ggml_blocks import LOSSLESS_SCHEMES
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import WeightUnit, weight_units
from gemcore.models.weights import float_unit
from gemcore.packing import (
    TILE,
    Scheme,
    dequantize,
    fits,
    get_scheme,
    pack_halves,
    quantize,
    unpack_halves,
)

TOKENS = 2048
"""Calibration tokens that sensitivity is measured with: it needs far fewer than rounding."""

SECONDS_TO_LOSE = 5.0
"""After so many seconds what was found is kept, for the next run if this one is stopped."""

ROWS = 256
"""Rows of a weight that are rounded to estimate the error of all, which do not depend on each other."""

KV_CACHE = "kv_cache"
"""What the keys and values are called among the weights."""

VERSION = 2
"""Of the arithmetic of sensitivity and rounding: what was kept by another is not used."""

Step = Callable[[int, int], None]
Floats = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True)
class UnitChoices:
    """The precisions that one weight may have.

    Attributes:
        unit: its name.
        weights: number of weights.
        choices: those that it fits, with bytes and expected KL.
        obstacles: those that it does not fit, and why.
    """

    unit: str
    weights: int
    choices: tuple[Choice, ...]
    obstacles: tuple[tuple[str, str], ...] = ()


def packed_bytes(unit: WeightUnit, scheme: Scheme) -> int:
    """Bytes of a packed weight, its rows padded to whole tiles."""
    rows = -(-unit.shape[0] // TILE) * TILE
    return round(rows * unit.shape[1] * scheme.bits_per_weight / 8)


def measure_choices(
    checkpoint: Checkpoint,
    calibration: Calibration,
    schemes: Sequence[str],
    *,
    calibrated: bool = True,
    damping: float = 0.01,
    step: Step | None = None,
) -> tuple[UnitChoices, ...]:
    """For each weight unit and scheme the bytes and the expected KL divergence.

    The result is kept in the user's cache: with another limit the same model is planned at once.

    Args:
        checkpoint: the model.
        calibration: what its activations and gradients are measured on.
        schemes: names of the schemes to choose among; `f16` stands in where none of them fits.
        calibrated: rounded with error feedback, or to nearest.
        damping: of the calibrated rounding.
        step: called with the units done and the units in all.

    Raises:
        FormatError: a weight is not finite.
    """
    key = _key(checkpoint, calibration, schemes, calibrated, damping)
    path = cache_root() / "sensitivity" / f"{key}.json"
    units = weight_units(checkpoint.config)
    known = _read(path, units)
    if known is not None:
        return known
    for unit in units:
        check_unit(checkpoint, unit)
    partial = path.with_suffix(".partial.json")
    found = list(_read(partial, units, whole=False) or ())
    wanted = [unit.name for unit in units[len(found) :]]
    terms = measure_terms(checkpoint, _spread(calibration.windows), wanted)
    written = time.monotonic()
    for done, unit in enumerate(units):
        if done >= len(found):
            rounder = _Rounder(terms.pop(unit.name), calibrated, damping)
            found.append(_choices(checkpoint, unit, schemes, rounder))
        if time.monotonic() - written > SECONDS_TO_LOSE:
            _write(partial, found)
            written = time.monotonic()
        if step is not None:
            step(done + 1, len(units))
    _write(path, found)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
    return tuple(found)


def _write(path: Path, found: Sequence[UnitChoices]) -> None:
    """Keep what was found; a cache that cannot be written only costs time."""
    with suppress(GemError):
        cache_folder("sensitivity")
        with write_atomically(path) as file:
            file.write(json.dumps([attrs.asdict(unit) for unit in found]).encode())


def lossless(checkpoint: Checkpoint, unit: WeightUnit, scheme: Scheme) -> bool:
    """Whether the file's own codes are codes of the scheme, so that nothing need be rounded."""
    encodings = (checkpoint.tensors[name].encoding for name in unit.sources)
    return all(LOSSLESS_SCHEMES.get(encoding) == scheme.name for encoding in encodings)


def check_unit(checkpoint: Checkpoint, unit: WeightUnit) -> None:
    """Raise FormatError where a weight holds NaN or infinite values."""
    for name in unit.sources:
        if not np.isfinite(checkpoint.tensors[name].to_float32()).all():
            raise FormatError(
                f"{name} of model '{checkpoint.name}' holds NaN or infinite values: "
                "it cannot be quantized"
            )


@attrs.define
class _Rounder:
    """Rounds rows of one weight to any scheme, and says what that costs."""

    terms: tuple[Term, ...]
    calibrated: bool
    damping: float
    _orders: dict[int, RoundingOrder] = attrs.field(factory=dict)

    def expected(self, weight: Floats, scheme: Scheme) -> float:
        """Expected KL of the whole weight, estimated from some of its rows."""
        rows, counts = _sample(self.terms)
        piece = np.ascontiguousarray(weight[rows])
        rounded = self._round(piece, scheme)
        total = np.zeros(len(rows))
        for term in self.terms:
            total += term.rows.double().numpy()[rows] * row_errors(piece, rounded, term.hessian)
        return 0.5 * float((total * counts).sum())

    def _round(self, weight: Floats, scheme: Scheme) -> Floats:
        if not scheme.grouped:
            return unpack_halves(pack_halves(weight), len(weight))
        if not self.calibrated:
            return dequantize(quantize(weight, scheme), scheme)
        order = self._orders.get(scheme.group)
        if order is None:
            order = rounding_order(rounding_hessian(self.terms), self.damping, scheme.group)
            self._orders[scheme.group] = order
        return dequantize(round_calibrated(weight, order, scheme), scheme)


def _choices(
    checkpoint: Checkpoint, unit: WeightUnit, schemes: Sequence[str], rounder: _Rounder
) -> UnitChoices:
    weight = float_unit(checkpoint, unit)
    obstacles, choices = [], []
    for name in schemes:
        scheme = get_scheme(name)
        obstacle = fits(scheme, unit.shape)
        if obstacle is not None:
            obstacles.append((name, obstacle))
            continue
        try:
            exact = lossless(checkpoint, unit, scheme)
            error = 0.0 if exact else rounder.expected(weight, scheme)
        except UsageError as error_of_scheme:
            obstacles.append((name, str(error_of_scheme)))
            continue
        choices.append(Choice(scheme=name, bytes=packed_bytes(unit, scheme), error=error))
    if not choices:
        scheme = get_scheme("f16")
        error = rounder.expected(weight, scheme)
        choices.append(Choice(scheme="f16", bytes=packed_bytes(unit, scheme), error=error))
    return UnitChoices(
        unit=unit.name,
        weights=unit.parameters,
        choices=tuple(choices),
        obstacles=tuple(obstacles),
    )


def _sample(
    terms: Sequence[Term],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows to round, and for how many rows' worth each stands.

    All rows where they are few; else drawn in proportion to what they matter, at even distances
    (systematic sampling), which leaves the sum unbiased.
    """
    matter = torch.stack([term.rows * term.hessian.diagonal().sum() for term in terms]).sum(0)
    weights = matter.double().numpy()
    total = float(weights.sum())
    if len(weights) <= ROWS or not total > 0:
        rows = np.arange(0, len(weights), max(1, len(weights) // ROWS))
        return rows, np.full(len(rows), len(weights) / len(rows))
    points = (np.arange(ROWS) + 0.5) * (total / ROWS)
    rows = np.minimum(np.searchsorted(np.cumsum(weights), points), len(weights) - 1)
    unique, repeats = np.unique(rows, return_counts=True)
    share = np.maximum(weights[unique], np.finfo(np.float64).tiny)
    return unique, repeats * (total / ROWS) / share


def _spread(windows: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """At most `TOKENS` tokens, of windows at even distances."""
    most = max(1, TOKENS // len(windows[0]))
    if len(windows) <= most:
        return list(windows)
    return [windows[i * len(windows) // most] for i in range(most)]


def _key(
    checkpoint: Checkpoint,
    calibration: Calibration,
    schemes: Iterable[str],
    calibrated: bool,
    damping: float,
) -> str:
    from gemcore import __version__

    content = {
        "model": checkpoint.identity,
        "text": calibration.digest,
        "schemes": [attrs.asdict(get_scheme(name)) for name in schemes],
        "calibrated": calibrated,
        "damping": damping,
        "version": [VERSION, __version__],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _read(
    path: Path, units: Sequence[WeightUnit], whole: bool = True
) -> tuple[UnitChoices, ...] | None:
    """What is in the cache; None where that is nothing, or nothing that can be used.

    Where the `whole` is not wanted, the choices of the first units will do.
    """
    try:
        found = tuple(
            UnitChoices(
                unit=str(entry["unit"]),
                weights=int(entry["weights"]),
                choices=tuple(
                    Choice(scheme=c["scheme"], bytes=int(c["bytes"]), error=float(c["error"]))
                    for c in entry["choices"]
                ),
                obstacles=tuple((str(a), str(b)) for a, b in entry["obstacles"]),
            )
            for entry in json.loads(path.read_bytes())
        )
        sizes = [(u.unit, {c.scheme: c.bytes for c in u.choices}) for u in found]
        expected = [
            (unit.name, {name: packed_bytes(unit, get_scheme(name)) for name in given})
            for unit, (_, given) in zip(units, sizes, strict=whole)
        ]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, GemError):
        return None
    return found if sizes == expected and all(u.choices for u in found) else None
