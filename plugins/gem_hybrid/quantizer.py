"""The hybrid quantizer: sensitivity, a plan within a limit, calibrated rounding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import attrs

from gem_hybrid.bands import first_rows
from gem_hybrid.beside import beside_weights, set_bytes
from gem_hybrid.cache_precision import AUTO, cache_choices
from gem_hybrid.calibration import Calibration, calibrate_on, calibration_text, read_calibration
from gem_hybrid.limits import Limit, read_bytes, read_limit, read_schemes
from gem_hybrid.plan_file import read_plan
from gem_hybrid.planning import make_plan
from gem_hybrid.sensitivity import VERSION, UnitChoices, measure_choices, packed_bytes
from gem_hybrid.speed import device_speed, with_seconds
from gemcore.errors import UsageError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import weight_units
from gemcore.models.weights import Progress, Weights, banded, pack_checkpoint
from gemcore.options import PluginChoice
from gemcore.reports import Plan, QuantizationReport
from gemcore.schemes import get_scheme

CACHE_WINDOWS = 4
"""Windows that the precision of keys and values is measured on."""


@attrs.frozen(kw_only=True)
class HybridQuantizer:
    """Gives every weight the precision that it needs most, within a limit, and rounds with calibration.

    Attributes:
        budget, bits, max_kl, latency: the limit, exactly one of them; or
        plan_path: a plan that exists.
        device, bandwidth: what a latency is meant on: a target, and the bytes a second of its memory.
        kv_cache: scheme of keys and values, `auto` for a choice; None leaves it out of the plan.
        context: tokens whose keys and values count.
        experts: a set whose bytes count in the budget; None for no experts.
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
    latency: str | None = None
    plan_path: Path | None = None
    device: str | None = None
    bandwidth: str | None = None
    kv_cache: str | None = None
    context: int | None = None
    experts: str | None = None
    schemes: tuple[str, ...]
    own_codes: bool = False
    calibration_path: str | None = None
    tokens: int = 8192
    calibrated: bool = True
    damping: float | None = None
    bands: int = 3
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
        checkpoint = self._in_bands(checkpoint)
        limit = self.limit(checkpoint, budget)
        beside = () if self.experts is None else beside_weights(checkpoint, self.experts)
        if limit.bytes is not None and self.bits is None:
            limit = _less(limit, sum(entry.bytes for entry in beside))
        speed = None if limit.seconds is None else device_speed(self.device, self.bandwidth)
        table = self.choices(checkpoint, calibration)
        cache = self.cache(checkpoint, calibration)
        if cache is not None:
            table = (*table, cache)
            if limit.bytes is not None and self.bits is not None:
                # Bits a weight say nothing of the cache: it is not the weights' to pay for.
                size = min(choice.bytes for choice in cache.choices)
                limit = attrs.evolve(limit, bytes=limit.bytes + size)
        if speed is not None:
            table = with_seconds(table, checkpoint.config, speed)
        plan = make_plan(table, limit, self.words)
        bands = checkpoint.config.vocabulary_bands
        return attrs.evolve(plan, beside=beside, vocabulary_bands=bands)

    def apply(
        self, checkpoint: Checkpoint, plan: Plan, progress: Progress | None = None
    ) -> tuple[Weights, QuantizationReport]:
        """Pack the weights: as they are where the file's own codes fit, else rounded with calibration.

        What was rounded before a run was stopped is not rounded again by the next one.
        """
        if not self.calibrated:
            return pack_checkpoint(checkpoint, plan, progress)
        from gem_hybrid.packing import CalibratedPacker
        from gem_hybrid.unfinished import UnfinishedWeights
        from gemcore import __version__

        checkpoint = banded(checkpoint, plan)
        text, schemes = self.calibration(checkpoint), plan.schemes()
        kept = UnfinishedWeights(
            {
                "model": checkpoint.identity,
                "text": text.digest,
                "schemes": {n: attrs.asdict(get_scheme(s)) for n, s in schemes.items()},
                "bands": plan.vocabulary_bands,
                "damping": self.damping,
                "version": [VERSION, __version__],
            }
        )
        packer = CalibratedPacker(checkpoint, schemes, text, self.damping, kept)
        result = pack_checkpoint(checkpoint, plan, progress, packer)
        kept.remove()
        return result

    def limit(self, checkpoint: Checkpoint, budget: int | None = None) -> Limit:
        """The limit that was asked for; the tighter one, where `budget` bytes are given, too.

        Raises:
            UsageError: there is none, or the options give several.
        """
        # Rows that only fill a tile count as weights, so that 4.5 bits are enough for 4.5 bits.
        half = [packed_bytes(unit, get_scheme("f16")) for unit in weight_units(checkpoint.config)]
        weights = sum(half) // 2
        limit = read_limit(self.budget, self.bits, self.max_kl, weights, self.latency)
        if budget is None and limit is None:
            raise UsageError(
                "quantizer 'hybrid' needs a limit: budget=80MB, bits=4.5, max_kl=0.02 or latency=20ms, "
                "or a plan: plan=FILE"
            )
        if budget is None or (limit and limit.bytes is not None and limit.bytes <= budget):
            assert limit is not None
            return limit
        if limit is not None and limit.bytes is None:
            raise UsageError(f"quantizer 'hybrid': give a budget or {limit.words}, not both")
        return Limit(bytes=budget, words=f"budget={budget}")

    def choices(
        self,
        checkpoint: Checkpoint,
        calibration: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> tuple[UnitChoices, ...]:
        """For each weight the precisions that it may have, with bytes and expected KL."""
        return measure_choices(
            self._in_bands(checkpoint),
            self.calibration(checkpoint, calibration),
            self.schemes,
            own_codes=self.own_codes,
            calibrated=self.calibrated,
            damping=self.damping,
            step=progress,
        )

    def cache(
        self, checkpoint: Checkpoint, calibration: Sequence[str] | None = None
    ) -> UnitChoices | None:
        """The schemes that keys and values may have; None where they are not part of the plan."""
        if self.kv_cache is None:
            return None
        windows = self.calibration(checkpoint, calibration).held_out
        return cache_choices(checkpoint, self.kv_cache, self.context, windows[:CACHE_WINDOWS])

    def _in_bands(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with as many bands of the vocabulary as are to be planned."""
        rows = first_rows(checkpoint.config.vocabulary_size, self.bands)
        return attrs.evolve(
            checkpoint, config=attrs.evolve(checkpoint.config, vocabulary_bands=rows)
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
        """Digest of the files that the packed weights depend on, and of the device."""
        digest = hashlib.sha256(f"{VERSION}".encode())
        if self.latency is not None:
            digest.update(repr(device_speed(self.device, self.bandwidth)).encode())
        if self.experts is not None:
            digest.update(repr(set_bytes(self.experts)).encode())
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


def _less(limit: Limit, used: int) -> Limit:
    """A limit of bytes, of which so many are used by what stands beside the weights."""
    assert limit.bytes is not None
    if not used:
        return limit
    if limit.bytes <= used:
        raise UsageError(
            f"quantizer 'hybrid': {limit.words} allows {limit.bytes} bytes, but the experts and their "
            f"router alone take {used}: allow more, or fewer experts"
        )
    words = f"{limit.words}, less {used} of experts and their router,"
    return attrs.evolve(limit, bytes=limit.bytes - used, words=words)


def hybrid(
    *,
    budget: str | None,
    bits: float | None,
    max_kl: float | None,
    latency: str | None = None,
    device: str | None = None,
    bandwidth: str | None = None,
    plan: str | None,
    schemes: str | None,
    kv_cache: str | None = None,
    context: int | None = None,
    experts: str | None = None,
    calibration: str | None,
    tokens: int,
    rounding: str,
    damping: float | None,
    bands: int = 3,
) -> HybridQuantizer:
    """The quantizer from its options.

    Raises:
        UsageError: several limits, a plan and a limit, an unknown scheme, a budget that is no size, or
            options that have nothing to act on.
    """
    limits = {"budget": budget, "bits": bits, "max_kl": max_kl, "latency": latency}
    read_limit(budget, bits, max_kl, 1, latency)
    extra = limits | {"kv_cache": kv_cache, "experts": experts}
    given = [name for name, value in extra.items() if value is not None]
    if plan is not None and given:
        raise UsageError(f"quantizer 'hybrid': give a plan or {given[0]}, not both")
    if latency is None and (device is not None or bandwidth is not None):
        raise UsageError(
            "quantizer 'hybrid': device and bandwidth are for a latency: add latency=20ms, or leave them "
            "out"
        )
    if kv_cache is None and context is not None:
        raise UsageError(
            "quantizer 'hybrid': context is for the KV cache: add kv_cache=auto, or leave it out"
        )
    if kv_cache == AUTO and bits is not None:
        raise UsageError(
            "quantizer 'hybrid': bits do not limit the KV cache: give kv_cache=auto a budget, max_kl or "
            "latency, or name its scheme"
        )
    if budget is not None:
        read_bytes(budget)
    typed = {
        **limits,
        "device": device,
        "bandwidth": bandwidth,
        "plan": plan,
        "schemes": schemes,
        "kv_cache": kv_cache,
        "context": context,
        "experts": experts,
        "calibration": calibration,
        "tokens": None if tokens == 8192 else tokens,
        "rounding": None if rounding == "calibrated" else rounding,
        "damping": damping,
        "bands": None if bands == 3 else bands,
    }
    choice = PluginChoice("hybrid", {n: v for n, v in typed.items() if v is not None})
    return HybridQuantizer(
        budget=budget,
        bits=bits,
        max_kl=max_kl,
        latency=latency,
        device=device,
        bandwidth=bandwidth,
        kv_cache=kv_cache,
        context=context,
        experts=experts,
        plan_path=None if plan is None else Path(plan).expanduser(),
        schemes=read_schemes(schemes),
        own_codes=schemes is None,
        calibration_path=calibration,
        tokens=tokens,
        calibrated=rounding == "calibrated",
        damping=damping,
        bands=bands,
        words=str(choice),
    )
