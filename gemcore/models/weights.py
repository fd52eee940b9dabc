"""From a checkpoint and a plan to the arrays that a compiled model reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError, GemError
from gemcore.formats.ggml_blocks import LOSSLESS_SCHEMES, codes_from_blocks
from gemcore.models.checkpoint import Checkpoint, StoredTensor
from gemcore.models.layout import (
    EMBEDDING,
    WeightUnit,
    norm_sources,
    rotation_table,
    units_of,
    weight_units,
)
from gemcore.packing import (
    Quantized,
    check_finite,
    pack,
    pack_halves,
    pack_weight,
    some_rows,
    stacked,
)
from gemcore.reports import Plan, QuantizationReport
from gemcore.schemes import Scheme, get_scheme

Weights = dict[str, npt.NDArray[Any]]
Progress = Callable[[int, int], None]
Packer = Callable[[Checkpoint, WeightUnit, Scheme], tuple[npt.NDArray[Any], bool]]
"""Gives one packed weight, and whether it holds exactly what the file holds."""


def pack_checkpoint(
    checkpoint: Checkpoint,
    plan: Plan,
    progress: Progress | None = None,
    pack_one: Packer | None = None,
) -> tuple[Weights, QuantizationReport]:
    """Pack every weight as the plan says, rounding to nearest where the file's codes do not fit as is.

    `pack_one` may round in another way; it is called for each unit once, in the order of `weight_units`.
    Returns arrays by parameter name of `gemcore.models.decoder.Decoder`, in the order in which a token
    reads them, and what was done.
    Raises GemError for a plan that does not fit the model, FormatError for weights that are not finite.
    """
    checkpoint = banded(checkpoint, plan)
    units = weight_units(checkpoint.config)
    schemes = plan.schemes()
    if set(schemes) != {unit.name for unit in units}:
        odd = sorted(set(schemes) ^ {unit.name for unit in units})
        raise GemError(f"the plan does not fit model '{checkpoint.name}': {odd[0]} differs")
    weights: Weights = {}
    lossless = 0
    for done, unit in enumerate(units):
        scheme = get_scheme(schemes[unit.name])
        packed, exact = (pack_one or pack_unit)(checkpoint, unit, scheme)
        weights[f"{unit.name}.packed"] = packed
        lossless += exact
        if unit.bias_sources:
            biases = [_float_vector(checkpoint, name) for name in unit.bias_sources]
            weights[f"{unit.name}.bias"] = np.concatenate(biases)
        if progress is not None:
            progress(done + 1, len(units))
    if checkpoint.config.tied_head:
        # Of the embedding a token reads one row, and at the end, as the head, the whole.
        for unit in units_of(checkpoint.config, EMBEDDING):
            weights[f"{unit.name}.packed"] = weights.pop(f"{unit.name}.packed")
    sources = dict.fromkeys(source for unit in units for source in unit.sources)
    before = sum(checkpoint.tensors[source].data.nbytes for source in sources)
    report = QuantizationReport(
        quantized=sum(get_scheme(name).grouped for name in schemes.values()),
        lossless=lossless,
        skipped=plan.skipped,
        bytes_before=before,
        bytes_after=sum(weights[f"{unit.name}.packed"].nbytes for unit in units),
    )
    return weights | plain_weights(checkpoint), report


def plain_weights(checkpoint: Checkpoint) -> Weights:
    """What is never quantized: norm gains and the rotation table, float32."""
    gains = {
        ours: _float_vector(checkpoint, theirs)
        for ours, theirs in norm_sources(checkpoint.config).items()
    }
    return {"rotation": rotation_table(checkpoint.config), **gains}


def dense_weights(checkpoint: Checkpoint) -> Weights:
    """Every weight as float32, for the reference model (`gemcore.models.decoder.dense_schemes`)."""
    weights = plain_weights(checkpoint)
    for unit in weight_units(checkpoint.config):
        weights[f"{unit.name}.weight"] = float_unit(checkpoint, unit)
        if unit.bias_sources:
            biases = [_float_vector(checkpoint, name) for name in unit.bias_sources]
            weights[f"{unit.name}.bias"] = np.concatenate(biases)
    return weights


def banded(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    """The checkpoint with the bands of the vocabulary that a plan asks for."""
    if checkpoint.config.vocabulary_bands == plan.vocabulary_bands:
        return checkpoint
    config = attrs.evolve(checkpoint.config, vocabulary_bands=plan.vocabulary_bands)
    return attrs.evolve(checkpoint, config=config)


def float_unit(checkpoint: Checkpoint, unit: WeightUnit) -> npt.NDArray[np.float32]:
    """One weight unit `[out, in]` as float32, its sources stacked."""
    tensors = [checkpoint.tensors[name] for name in unit.sources]
    if unit.rows is not None:
        (tensor,) = tensors
        # A copy, so that the whole need not stay in memory for the sake of a band.
        return tensor.to_float32()[slice(*unit.rows)].copy()
    return np.concatenate([tensor.to_float32() for tensor in tensors])


def pack_unit(
    checkpoint: Checkpoint, unit: WeightUnit, scheme: Scheme
) -> tuple[npt.NDArray[Any], bool]:
    """One packed weight, and whether it holds exactly what the file holds."""
    sources = [checkpoint.tensors[name] for name in unit.sources]
    lossless = all(LOSSLESS_SCHEMES.get(source.encoding) == scheme.name for source in sources)
    try:
        if not lossless:
            return pack_weight(float_unit(checkpoint, unit), scheme), False
        if not scheme.grouped:
            halves = np.concatenate([source.data for source in sources])[_rows(unit)]
            check_finite(halves)
            return pack_halves(halves), True
        quantized = some_rows(stacked([_codes(source) for source in sources]), _rows(unit))
        check_finite(quantized.scales)
        if quantized.minima is not None:
            check_finite(quantized.minima)
        return pack(quantized, scheme), True
    except GemError as error:
        raise FormatError(f"{unit.sources[0]} of model '{checkpoint.name}': {error}") from error


def _codes(source: StoredTensor) -> Quantized:
    return codes_from_blocks(source.encoding, source.data)


def _rows(unit: WeightUnit) -> slice:
    return slice(None) if unit.rows is None else slice(*unit.rows)


def _float_vector(checkpoint: Checkpoint, name: str) -> npt.NDArray[np.float32]:
    values = checkpoint.tensors[name].to_float32()
    if not np.isfinite(values).all():
        raise FormatError(f"{name} of model '{checkpoint.name}' holds NaN or infinite values")
    return values
