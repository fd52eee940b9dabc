"""The quantizer `ternary`: every weight is -s, 0 or s, with a scale s for each group of 64.

The thresholds and scales are those of Ternary Weight Networks (arXiv 1605.04711): weights below 0.7 of
the mean magnitude of their group become 0, and the scale is the mean magnitude of all others. GEM's
scheme `q2a-g64` holds the three values exactly: code * s - s, for the codes 0, 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt
from gemcore.errors import UsageError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import EMBEDDING, HEAD, weight_units
from gemcore.models.weights import Progress, Weights, float_unit, pack_checkpoint
from gemcore.packing import Quantized, check_finite, pack, packed_bytes
from gemcore.reports import Plan, PlanEntry, QuantizationReport
from gemcore.schemes import fits, get_scheme

SCHEME = get_scheme("q2a-g64")
THRESHOLD = 0.7
"""Share of a group's mean magnitude below which a weight becomes 0."""


def ternary(weight: npt.NDArray[np.float32]) -> Quantized:
    """Codes 0, 1 and 2 for -s, 0 and s of a weight `[out, in]`; UsageError for NaN or infinity."""
    check_finite(weight)
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // SCHEME.group, SCHEME.group)
    size = np.abs(groups)
    kept = size > THRESHOLD * size.mean(axis=2, keepdims=True)
    count = np.maximum(kept.sum(axis=2), 1)
    scales = ((size * kept).sum(axis=2) / count).astype(np.float16)
    codes = (np.sign(groups) * kept + 1).astype(np.uint8)
    return Quantized(codes=codes.reshape(rows, columns), scales=scales, minima=-scales)


@attrs.frozen
class TernaryQuantizer:
    """Every linear layer is ternary; embedding and head, which lose most, are stored in `head`."""

    head: str

    def plan(
        self,
        checkpoint: Checkpoint,
        calibration: Sequence[str] | None = None,
        budget: int | None = None,
    ) -> Plan:
        """Give every weight its scheme; calibration texts are not needed."""
        entries, skipped = [], []
        for unit in weight_units(checkpoint.config):
            outer = unit.name in (EMBEDDING, HEAD)
            wanted = self.head if outer else SCHEME.name
            obstacle = fits(get_scheme(wanted), unit.shape)
            if obstacle is not None:
                skipped.append((unit.name, f"not {wanted}: {obstacle}"))
            scheme = wanted if obstacle is None else "f16"
            size = packed_bytes(get_scheme(scheme), unit.shape)
            reason = obstacle or ("embedding or head" if outer else "ternary")
            entries.append(PlanEntry(unit=unit.name, scheme=scheme, reason=reason, bytes=size))
        whole = sum(entry.bytes for entry in entries)
        if budget is not None and whole > budget:
            raise UsageError(f"the weights take {whole} bytes, above the budget of {budget}")
        return Plan(
            quantizer=f"ternary:head={self.head}", entries=tuple(entries), skipped=tuple(skipped)
        )

    def apply(
        self, checkpoint: Checkpoint, plan: Plan, progress: Progress | None = None
    ) -> tuple[Weights, QuantizationReport]:
        """Pack as planned; then the layers that are ternary once more, with codes of their own."""
        weights, report = pack_checkpoint(checkpoint, plan, progress)
        schemes = plan.schemes()
        for unit in weight_units(checkpoint.config):
            if schemes[unit.name] == SCHEME.name:
                quantized = ternary(float_unit(checkpoint, unit))
                weights[f"{unit.name}.packed"] = pack(quantized, SCHEME)
        return weights, report
