"""The expected KL divergence of each weight in each precision: the table that plans are made from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
import torch

from gem_hybrid.assignment import Choice
from gem_hybrid.calibration import Calibration
from gem_hybrid.rounding import (
    damping_for,
    round_side_by_side,
    rounding_order,
    row_errors,
)
from gem_hybrid.states import Windows, one_thread
from gem_hybrid.statistics import (
    Term,
    measure_importance,
    measure_inputs,
    of_rows,
    rounding_hessian,
    unit_terms,
)
from gemcore.cache import cache_folder, cache_root, write_atomically
from gemcore.errors import FormatError, GemError, UsageError
from gemcore.formats.ggml_blocks import LOSSLESS_SCHEMES
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import (
    EMBEDDING,
    WeightUnit,
    units_of,
    vocabulary_weight,
    weight_units,
)
from gemcore.models.weights import float_unit
from gemcore.packing import dequantize, pack_halves, quantize, unpack_halves
from gemcore.schemes import TILE, Scheme, fits, get_scheme

TOKENS = 2048
"""Calibration tokens that errors are measured on: that takes far fewer than rounding."""

SECONDS_TO_LOSE = 5.0
"""After so many seconds what was found is kept, for the next run if this one is stopped."""

ROWS = 128
"""Rows of a weight that are rounded to estimate the error of all, which do not depend on each other."""

DAMPING_FACTOR = 3.0
"""See `damping_for`: more than weights are rounded with, since the table is made without descent behind
GPTQ, in half the time."""

KV_CACHE = "kv_cache"
"""What the keys and values are called among the weights."""

VERSION = 6
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
    own_codes: bool = False,
    calibrated: bool = True,
    damping: float | None = None,
    step: Step | None = None,
) -> tuple[UnitChoices, ...]:
    """For each weight unit and scheme the bytes and the expected KL divergence.

    The result is kept in the user's cache: with another limit the same model is planned at once.

    Args:
        checkpoint: the model.
        calibration: what its activations and gradients are measured on.
        schemes: names of the schemes to choose among; `f16` stands in where none of them fits.
        own_codes: choose also the scheme that holds a weight's own codes in the file exactly.
        calibrated: rounded with error feedback, or to nearest.
        damping: of the calibrated rounding; None for what the amount of text asks for.
        step: called with the units done and the units in all.

    Raises:
        FormatError: a weight is not finite.
    """
    key = _key(checkpoint, calibration, schemes, own_codes, calibrated, damping)
    path = cache_root() / "sensitivity" / f"{key}.json"
    units = weight_units(checkpoint.config)
    known = _read(path, units)
    if known is not None:
        return known
    for unit in units:
        check_unit(checkpoint, unit)
    # The embedding may be the head, and then comes last.
    tied = checkpoint.config.tied_head
    ordered = sorted(units, key=lambda unit: tied and vocabulary_weight(unit.name) == EMBEDDING)
    partial = path.with_suffix(".partial.json")
    found = {unit.unit: unit for unit in _read(partial, ordered, whole=False) or ()}
    measured, others = _split(calibration.windows)
    importance = measure_importance(checkpoint, measured)
    left = [unit for unit in units if unit.name not in found]
    wanted = {_whole(unit) for unit in left}
    written, tokens = time.monotonic(), sum(map(len, others))
    for name, pair in _inputs(checkpoint, (measured, others), wanted):
        terms = unit_terms(name, importance, pair[0], tied)
        rounding = unit_terms(name, importance, pair[1], tied, rounding=True)
        for unit in [unit for unit in left if _whole(unit) == name]:
            hessian = rounding_hessian(of_rows(rounding, unit))
            if name == EMBEDDING:
                _write_hessian(checkpoint, calibration, unit, hessian)
            rounder = _Rounder(
                terms=of_rows(terms, unit),
                hessian=hessian,
                calibrated=calibrated,
                damping=damping_for(unit.shape[1], tokens, damping, DAMPING_FACTOR),
            )
            own = _own_scheme(checkpoint, unit) if own_codes else ()
            with one_thread():
                allowed = tuple(dict.fromkeys((*schemes, *own)))
                found[unit.name] = _choices(checkpoint, unit, allowed, rounder)
            if time.monotonic() - written > SECONDS_TO_LOSE:
                _write(partial, [found[unit.name] for unit in ordered if unit.name in found])
                written = time.monotonic()
            if step is not None:
                step(len(found), len(units))
    result = tuple(found[unit.name] for unit in units)
    _write(path, result)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
    return result


def _whole(unit: WeightUnit) -> str:
    return vocabulary_weight(unit.name) or unit.name


def _inputs(
    checkpoint: Checkpoint, sets: tuple[Windows, Windows], wanted: set[str]
) -> Iterator[tuple[str, Sequence[torch.Tensor | None]]]:
    """As `measure_inputs`; an embedding that is not the head reads no hidden states, and comes first."""
    if not checkpoint.config.tied_head and EMBEDDING in wanted:
        yield EMBEDDING, (None, None)
    yield from measure_inputs(checkpoint, sets, wanted)


def _split(windows: Windows) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Windows to measure errors on, at most `TOKENS` tokens at even distances, and windows to round with.

    What is rounded with a text loses less on that text than on any other.
    """
    most = max(1, min(TOKENS // len(windows[0]), len(windows) // 2))
    chosen = {i * len(windows) // most for i in range(most)}
    measured = [w for i, w in enumerate(windows) if i in chosen]
    others = [w for i, w in enumerate(windows) if i not in chosen]
    return measured, others or measured


def embedding_hessian(
    checkpoint: Checkpoint, calibration: Calibration, unit: WeightUnit
) -> torch.Tensor:
    """The Hessian that the embedding, or a band of it, is rounded with; kept in the cache.

    Float32 `[hidden, hidden]`.
    """
    size = checkpoint.config.hidden_size
    try:
        kept = np.load(_hessian_path(checkpoint, calibration, unit), allow_pickle=False)
        if kept.dtype == np.float32 and kept.shape == (size, size):
            return torch.from_numpy(kept)
    except (OSError, ValueError, EOFError):
        pass
    measured, others = _split(calibration.windows)
    importance = measure_importance(checkpoint, measured)
    tied, inputs = checkpoint.config.tied_head, None
    if tied:
        ((_, (inputs,)),) = measure_inputs(checkpoint, (others,), {EMBEDDING})
    terms = unit_terms(EMBEDDING, importance, inputs, tied, rounding=True)
    for band in units_of(checkpoint.config, EMBEDDING):
        found = rounding_hessian(of_rows(terms, band))
        _write_hessian(checkpoint, calibration, band, found)
    return rounding_hessian(of_rows(terms, unit))


def _write_hessian(
    checkpoint: Checkpoint, calibration: Calibration, unit: WeightUnit, hessian: torch.Tensor
) -> None:
    with suppress(GemError):
        cache_folder("sensitivity")
        with write_atomically(_hessian_path(checkpoint, calibration, unit)) as file:
            np.save(file, hessian.numpy(), allow_pickle=False)


def _hessian_path(checkpoint: Checkpoint, calibration: Calibration, unit: WeightUnit) -> Path:
    content = [checkpoint.identity, calibration.digest, VERSION, unit.rows]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    return cache_root() / "sensitivity" / f"{digest}.npy"


def _write(path: Path, found: Sequence[UnitChoices]) -> None:
    """Keep what was found; a cache that cannot be written only costs time."""
    with suppress(GemError):
        cache_folder("sensitivity")
        with write_atomically(path) as file:
            file.write(json.dumps([attrs.asdict(unit) for unit in found]).encode())


def _own_scheme(checkpoint: Checkpoint, unit: WeightUnit) -> tuple[str, ...]:
    """The scheme that holds the file's own codes of a unit, if there is one."""
    encodings = {checkpoint.tensors[name].encoding for name in unit.sources}
    known = LOSSLESS_SCHEMES.get(encodings.pop())
    return () if encodings or known is None else (known,)


def lossless(checkpoint: Checkpoint, unit: WeightUnit, scheme: Scheme) -> bool:
    """Whether the file's own codes are codes of the scheme, so that nothing need be rounded."""
    encodings = (checkpoint.tensors[name].encoding for name in unit.sources)
    return all(LOSSLESS_SCHEMES.get(encoding) == scheme.name for encoding in encodings)


def check_unit(checkpoint: Checkpoint, unit: WeightUnit) -> None:
    """Raise FormatError where a weight holds NaN or infinite values."""
    if unit.rows is not None and unit.rows[0] > 0:
        return  # of the same tensor as the band before
    for name in unit.sources:
        if not np.isfinite(checkpoint.tensors[name].to_float32()).all():
            raise FormatError(
                f"{name} of model '{checkpoint.name}' holds NaN or infinite values: "
                "it cannot be quantized"
            )


@attrs.frozen(kw_only=True)
class _Rounder:
    """Rounds rows of one weight, and says what that costs.

    Attributes:
        terms: of its cost.
        hessian: float32 `[in, in]`, to round with: of other text than the terms.
        calibrated, damping: of the rounding.
    """

    terms: tuple[Term, ...]
    hessian: torch.Tensor
    calibrated: bool
    damping: float

    def expected(
        self, weight: Floats, schemes: Sequence[Scheme]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Expected KL of the whole weight in each scheme, from some of its rows; and what cannot be had."""
        rows, counts = _sample(self.terms)
        piece = np.ascontiguousarray(weight[rows])
        rounded, obstacles = self._round(piece, schemes)
        errors = {}
        for name, values in rounded.items():
            total = np.zeros(len(rows))
            for term in self.terms:
                each = row_errors(piece, values, term.hessian)
                total += term.rows.double().numpy()[rows] * each
            errors[name] = 0.5 * float((total * counts).sum())
        return errors, obstacles

    def _round(
        self, weight: Floats, schemes: Sequence[Scheme]
    ) -> tuple[dict[str, Floats], dict[str, str]]:
        values: dict[str, Floats] = {}
        obstacles: dict[str, str] = {}
        alike: dict[tuple[int, bool, bool], list[Scheme]] = {}
        for scheme in schemes:
            try:
                if not scheme.grouped:
                    values[scheme.name] = unpack_halves(pack_halves(weight), len(weight))
                    continue
                nearest = quantize(weight, scheme)
            except UsageError as error:
                obstacles[scheme.name] = str(error)
                continue
            if self.calibrated:
                kind = (scheme.group, scheme.has_minimum, scheme.byte_factors)
                alike.setdefault(kind, []).append(scheme)
            else:
                values[scheme.name] = dequantize(nearest, scheme)
        for size in {group for group, *_ in alike}:
            order = rounding_order(self.hessian, self.damping, size)
            for wanted in (alike[key] for key in alike if key[0] == size):
                codes = round_side_by_side(weight, order, wanted)
                for scheme, quantized in zip(wanted, codes, strict=True):
                    with np.errstate(all="ignore"):  # of scales too large for float16
                        found = dequantize(quantized, scheme)
                    values[scheme.name] = _finite(found, weight, scheme)
        return values, obstacles


def _choices(
    checkpoint: Checkpoint, unit: WeightUnit, schemes: Sequence[str], rounder: _Rounder
) -> UnitChoices:
    weight = float_unit(checkpoint, unit)
    obstacles: dict[str, str] = {}
    errors: dict[str, float] = {}
    rounded = []
    for name in schemes:
        scheme = get_scheme(name)
        obstacle = fits(scheme, unit.shape)
        if obstacle is not None:
            obstacles[name] = obstacle
        elif lossless(checkpoint, unit, scheme):
            errors[name] = 0.0
        else:
            rounded.append(scheme)
    found, too_large = rounder.expected(weight, rounded)
    errors |= found
    obstacles |= too_large
    if not errors:
        errors, too_large = rounder.expected(weight, [get_scheme("f16")])
        if too_large:
            raise UsageError(f"{unit.sources[0]}: {too_large['f16']}")
    return UnitChoices(
        unit=unit.name,
        weights=unit.parameters,
        choices=tuple(
            Choice(scheme=n, bytes=packed_bytes(unit, get_scheme(n)), error=errors[n])
            for n in dict.fromkeys((*schemes, "f16"))
            if n in errors
        ),
        obstacles=tuple((n, obstacles[n]) for n in schemes if n in obstacles),
    )


def _finite(values: Floats, weight: Floats, scheme: Scheme) -> Floats:
    """Rounded rows; those whose scales became too large for float16 as they are to the nearest."""
    usable = np.isfinite(values).all(axis=1)
    if not usable.all():
        values[~usable] = dequantize(quantize(weight[~usable], scheme), scheme)
    return values


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


def _key(
    checkpoint: Checkpoint,
    calibration: Calibration,
    schemes: Iterable[str],
    own_codes: bool,
    calibrated: bool,
    damping: float | None,
) -> str:
    from gemcore import __version__

    content = {
        "model": checkpoint.identity,
        "bands": checkpoint.config.vocabulary_bands,
        "text": calibration.digest,
        "schemes": [attrs.asdict(get_scheme(name)) for name in schemes],
        "own_codes": own_codes,
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
