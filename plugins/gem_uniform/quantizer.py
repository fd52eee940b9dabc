"""One scheme for every linear weight, another for embedding and head where that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs

from gemcore.errors import UsageError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import EMBEDDING, HEAD, WeightUnit, weight_units
from gemcore.models.weights import Progress, Weights, pack_checkpoint
from gemcore.packing import packed_bytes
from gemcore.reports import Plan, PlanEntry, QuantizationReport
from gemcore.schemes import fits, get_scheme

FALLBACK = "f16"
"""Scheme of a weight that does not fit the one asked for."""


@attrs.frozen
class UniformQuantizer:
    """Round to nearest in groups of 32 or 64 (as ZeroQuant, arXiv 2206.01861, does for weights).

    Attributes:
        scheme: of the linear layers.
        head: of the embedding and the output head.
    """

    scheme: str
    head: str

    def plan(
        self,
        checkpoint: Checkpoint,
        calibration: Sequence[str] | None = None,
        budget: int | None = None,
    ) -> Plan:
        """Give every weight its scheme; calibration text is not used, and a budget only checked."""
        entries = []
        skipped = []
        for unit in weight_units(checkpoint.config):
            wanted = self.head if unit.name in (EMBEDDING, HEAD) else self.scheme
            obstacle = fits(get_scheme(wanted), unit.shape)
            if obstacle is not None:
                skipped.append((unit.name, f"not {wanted}: {obstacle}"))
            entries.append(_entry(unit, wanted if obstacle is None else FALLBACK, obstacle))
        name = f"{self.scheme}:head={self.head}"
        whole = sum(entry.bytes for entry in entries)
        if budget is not None and whole > budget:
            raise UsageError(
                f"the weights take {whole} bytes as {name}, more than the budget of {budget}: choose a "
                "scheme of fewer bits"
            )
        return Plan(quantizer=name, entries=tuple(entries), skipped=tuple(skipped))

    def apply(
        self, checkpoint: Checkpoint, plan: Plan, progress: Progress | None = None
    ) -> tuple[Weights, QuantizationReport]:
        """Pack the weights, without rounding where the file's own codes fit the scheme."""
        return pack_checkpoint(checkpoint, plan, progress)


def _entry(unit: WeightUnit, scheme: str, obstacle: str | None) -> PlanEntry:
    size = packed_bytes(get_scheme(scheme), unit.shape)
    reason = "as asked" if obstacle is None else obstacle
    return PlanEntry(unit=unit.name, scheme=scheme, reason=reason, bytes=size)


q2z_g32 = partial(UniformQuantizer, "q2z-g32")
q2a_g64 = partial(UniformQuantizer, "q2a-g64")
q3z_g32 = partial(UniformQuantizer, "q3z-g32")
q3a_g32 = partial(UniformQuantizer, "q3a-g32")
q3a_g64 = partial(UniformQuantizer, "q3a-g64")
q3s_g32 = partial(UniformQuantizer, "q3s-g32")
q3s_g64 = partial(UniformQuantizer, "q3s-g64")
q4z_g32 = partial(UniformQuantizer, "q4z-g32")
q4a_g32 = partial(UniformQuantizer, "q4a-g32")
q4a_g64 = partial(UniformQuantizer, "q4a-g64")
q4s_g32 = partial(UniformQuantizer, "q4s-g32")
q4s_g64 = partial(UniformQuantizer, "q4s-g64")
q5z_g32 = partial(UniformQuantizer, "q5z-g32")
q5a_g32 = partial(UniformQuantizer, "q5a-g32")
q5a_g64 = partial(UniformQuantizer, "q5a-g64")
q5s_g32 = partial(UniformQuantizer, "q5s-g32")
q5s_g64 = partial(UniformQuantizer, "q5s-g64")
q6_g32 = partial(UniformQuantizer, "q6-g32")
q6_g64 = partial(UniformQuantizer, "q6-g64")
q8_g32 = partial(UniformQuantizer, "q8-g32")
q8_g64 = partial(UniformQuantizer, "q8-g64")
f16 = partial(UniformQuantizer, "f16")
