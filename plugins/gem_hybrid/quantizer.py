"""The hybrid quantizer: sensitivity, a plan within a limit, calibrated rounding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import attrs

from gem_hybrid.calibration import Calibration, calibrate_on, calibration_text, read_calibration
from gem_hybrid.limits import Limit, read_bytes, read_limit, read_schemes
from gem_hybrid.plan_file import read_plan
from gem_hybrid.planning import make_plan
from gem_hybrid.sensitivity import UnitChoices, measure_choices, packed_bytes
from gemcore.errors import UsageError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import weight_units
from gemcore.models.weights import Progress, Weights, pack_checkpoint
from gemcore.options import PluginChoice
from gemcore.packing import get_scheme
from gemcore.reports import Plan, QuantizationReport


@attrs.frozen(kw_only=True)
class HybridQuantizer:
    """Gives every weight the precision that it needs most, within a limit, and rounds with calibration.

    Attributes:
        budget, bits, max_kl: the limit, exactly one of them; or
        plan_path: a plan that exists.
        schemes: precisions to choose among.
        calibration_path: a text file; None for GEM's own text.
        tokens: to calibrate with at most.
        calibrated: round with error feedback.
        damping: of that.
        words: the quantizer, as the user could type it.
    """

    budget: str | None = None
    bits: float | None = None
    max_kl: float | None = None
    plan_path: Path | None = None
    schemes: tuple[str, ...]
    calibration_path: str | None = None
    tokens: int = 8192
    calibrated: bool = True
    damping: float = 0.01
    words: str = "hybrid"

    def plan(
        self,
        checkpoint: Checkpoint,
        calibration: Sequence[str] | None = None,
        budget: int | None = None,
    ) -> Plan:
        """Choose a scheme for every weight; texts that are given replace the calibration text.

        Raises:
            UsageError: the limit cannot be kept, the plan is for another model, or there is too little
                text to calibrate with.
            FormatError: a weight is not finite.
        """
        if self.plan_path is not None:
            plan = read_plan(self.plan_path, checkpoint, self.words)
            size = sum(entry.bytes for entry in plan.entries)
            if budget is not None and size > budget:
                raise UsageError(
                    f"plan '{self.plan_path}' takes {size} bytes, more than the {budget} allowed"
                )
            return plan
        limit = self.limit(checkpoint, budget)
        return make_plan(self.choices(checkpoint, calibration), limit, self.words)

    def apply(
        self, checkpoint: Checkpoint, plan: Plan, progress: Progress | None = None
    ) -> tuple[Weights, QuantizationReport]:
        """Pack the weights: as they are where the file's own codes fit, else rounded with calibration."""
        if not self.calibrated:
            return pack_checkpoint(checkpoint, plan, progress)
        from gem_hybrid.packing import CalibratedPacker

        packer = CalibratedPacker(
            checkpoint, plan.schemes(), self.calibration(checkpoint).windows, self.damping
        )
        return pack_checkpoint(checkpoint, plan, progress, packer)

    def limit(self, checkpoint: Checkpoint, budget: int | None = None) -> Limit:
        """The limit that was asked for; the tighter one, where `budget` bytes are given, too.

        Raises:
            UsageError: there is none, or the options give several.
        """
        # Rows that only fill a tile count as weights, so that 4.5 bits are enough for 4.5 bits.
        half = [packed_bytes(unit, get_scheme("f16")) for unit in weight_units(checkpoint.config)]
        weights = sum(half) // 2
        limit = read_limit(self.budget, self.bits, self.max_kl, weights)
        if budget is None and limit is None:
            raise UsageError(
                "quantizer 'hybrid' needs a limit: budget=80MB, bits=4.5 or max_kl=0.02, or a plan: "
                "plan=FILE"
            )
        if budget is None or (limit and limit.bytes is not None and limit.bytes <= budget):
            assert limit is not None
            return limit
        if limit is not None and limit.kl is not None:
            raise UsageError("quantizer 'hybrid': give a budget or max_kl, not both")
        return Limit(bytes=budget, words=f"budget={budget}")

    def choices(
        self,
        checkpoint: Checkpoint,
        calibration: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> tuple[UnitChoices, ...]:
        """For each weight the precisions that it may have, with bytes and expected KL."""
        return measure_choices(
            checkpoint,
            self.calibration(checkpoint, calibration),
            self.schemes,
            calibrated=self.calibrated,
            damping=self.damping,
            step=progress,
        )

    def calibration(
        self, checkpoint: Checkpoint, texts: Sequence[str] | None = None
    ) -> Calibration:
        """The calibration text, cut into windows for a model."""
        name = "the calibration text"
        if texts is None:
            texts = read_calibration(self.calibration_path)
            name += "" if self.calibration_path is None else f" '{self.calibration_path}'"
        return calibrate_on(checkpoint, texts, self.tokens, name)

    def content(self) -> str:
        """Digest of the files that the packed weights depend on."""
        digest = hashlib.sha256()
        try:
            if self.plan_path is not None:
                digest.update(self.plan_path.read_bytes())
            if self.calibration_path is not None:
                digest.update(Path(self.calibration_path).expanduser().read_bytes())
            else:
                digest.update(calibration_text().encode())
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
        return digest.hexdigest()


def hybrid(
    *,
    budget: str | None,
    bits: float | None,
    max_kl: float | None,
    plan: str | None,
    schemes: str | None,
    calibration: str | None,
    tokens: int,
    rounding: str,
    damping: float,
) -> HybridQuantizer:
    """The quantizer from its options.

    Raises:
        UsageError: several limits, a plan and a limit, an unknown scheme, or a budget that is no size.
    """
    limits = {"budget": budget, "bits": bits, "max_kl": max_kl}
    read_limit(budget, bits, max_kl, 1)
    given = [name for name, value in limits.items() if value is not None]
    if plan is not None and given:
        raise UsageError(f"quantizer 'hybrid': give a plan or {given[0]}, not both")
    if budget is not None:
        read_bytes(budget)
    typed = {
        **limits,
        "plan": plan,
        "schemes": schemes,
        "calibration": calibration,
        "tokens": None if tokens == 8192 else tokens,
        "rounding": None if rounding == "calibrated" else rounding,
        "damping": None if damping == 0.01 else damping,
    }
    choice = PluginChoice("hybrid", {n: v for n, v in typed.items() if v is not None})
    return HybridQuantizer(
        budget=budget,
        bits=bits,
        max_kl=max_kl,
        plan_path=None if plan is None else Path(plan).expanduser(),
        schemes=read_schemes(schemes),
        calibration_path=calibration,
        tokens=tokens,
        calibrated=rounding == "calibrated",
        damping=damping,
        words=str(choice),
    )
