"""A quantizer whose plan is made already: builds give quantizers no calibration texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.weights import Progress, Weights
    from gemcore.reports import Plan, QuantizationReport


@attrs.frozen
class FixedPlan:
    """Packs weights as a given plan says.

    Attributes:
        made: the plan.
        quantizer: packs the weights; rounding to nearest if not given.
    """

    made: Plan
    quantizer: Any = None

    def plan(self, checkpoint: Checkpoint, calibration: Any = None, budget: Any = None) -> Plan:
        """Give the plan, whatever the model."""
        return self.made

    def apply(
        self, checkpoint: Checkpoint, plan: Plan, progress: Progress | None = None
    ) -> tuple[Weights, QuantizationReport]:
        """Pack the weights."""
        if self.quantizer is not None:
            packed: tuple[Weights, QuantizationReport]
            packed = self.quantizer.apply(checkpoint, plan, progress)
            return packed
        from gemcore.models.weights import pack_checkpoint

        return pack_checkpoint(checkpoint, plan, progress)
