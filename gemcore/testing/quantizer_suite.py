"""The checks of a quantizer: plan, packed weights and report agree, and the error is as declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from gemcore.errors import GemError, UsageError
from gemcore.testing import material
from gemcore.testing.conformance import PluginConformance, compiles, require, skip
from gemcore.testing.fixed_plan import FixedPlan

if TYPE_CHECKING:
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.layout import WeightUnit
    from gemcore.models.weights import Weights
    from gemcore.reports import Plan, QuantizationReport

CALIBRATION = (
    "The court shall hear the appeal within thirty days.",
    "Take two tablets after meals; not more than six a day.",
    "def total(prices): return sum(prices) * 1.19",
)
"""Texts for quantizers that measure the effect of rounding."""


class QuantizerConformance(PluginConformance):
    """Subclass this and set `plugin` to test a quantizer.

    Attributes:
        relative_error: the declared bound of the error of every weight: root mean square of what rounding
            changes, divided by the root mean square of the weight. Weights of zeros would have 1.
        calibration: texts that `plan` is given; None for a quantizer that needs none.
        tolerance: how far compiled logits may be from those of torch.
    """

    kind: ClassVar[str] = "quantizer"
    relative_error: ClassVar[float] = 0.5
    calibration: ClassVar[tuple[str, ...] | None] = CALIBRATION
    tolerance: ClassVar[float] = 1e-3

    def checkpoint(self) -> Checkpoint:
        """The model that is quantized."""
        return material.checkpoint()

    def planned(self, checkpoint: Checkpoint | None = None) -> Plan:
        """A fresh plan for the model."""
        plan: Plan = self.create().plan(checkpoint or self.checkpoint(), self.calibration, None)
        return plan

    def applied(self) -> tuple[Plan, Weights, QuantizationReport]:
        """Plan, packed weights and report of the model."""
        quantizer = self.create()
        plan = quantizer.plan(self.checkpoint(), self.calibration, None)
        weights, report = quantizer.apply(self.checkpoint(), plan)
        return plan, weights, report

    def test_a_plan_names_every_weight_once_with_a_known_scheme(self) -> None:
        """One entry a weight unit, of a scheme that there is and that fits, with a reason."""
        from gemcore.schemes import SCHEMES, fits, get_scheme

        plan = self.planned()
        shapes = {unit.name: unit.shape for unit in _units(self.checkpoint(), plan)}
        names = [entry.unit for entry in plan.entries]
        odd = sorted(set(names) ^ shapes.keys()) or sorted(n for n in names if names.count(n) > 1)
        self.require(not odd, f"its plan does not name every weight once: see {odd[:3]}")
        for entry in plan.entries:
            where = f"its plan for {entry.unit}"
            self.require(
                entry.scheme in SCHEMES,
                f"{where} asks for scheme '{entry.scheme}', which is none of {', '.join(SCHEMES)}",
            )
            obstacle = fits(get_scheme(entry.scheme), shapes[entry.unit])
            self.require(obstacle is None, f"{where} asks for {entry.scheme}, but {obstacle}")
            self.require(entry.reason.strip(), f"{where} gives no reason")
        for name, reason in plan.skipped:
            self.require(
                name in shapes and reason.strip(), f"its plan skips '{name}' without a reason"
            )

    def test_the_packed_weights_are_as_planned(self) -> None:
        """Every parameter is there, packed in the plan's scheme, and as large as the plan says."""
        from gemcore.packing import packed_shape
        from gemcore.schemes import get_scheme

        plan, weights, _ = self.applied()
        schemes = plan.schemes()
        for unit in _units(self.checkpoint(), plan):
            name = f"{unit.name}.packed"
            self.require(name in weights, f"its apply() gives no weight '{name}'")
            scheme = get_scheme(schemes[unit.name])
            shape, dtype = weights[name].shape, str(weights[name].dtype)
            wanted = packed_shape(scheme, unit.shape)
            kind = "uint8" if scheme.grouped else "float16"
            self.require(
                (shape, dtype) == (wanted, kind),
                f"'{name}' is {dtype} {list(shape)}, but {scheme.name} is packed as {kind} "
                f"{list(wanted)}",
            )
        for entry in plan.entries:
            size = weights[f"{entry.unit}.packed"].nbytes
            self.require(
                size == entry.bytes,
                f"its plan says {entry.bytes} bytes for {entry.unit}, but packed it has {size}",
            )

    def test_the_report_adds_up(self) -> None:
        """Bytes before and after, the number quantized and what was skipped are what was done."""
        from gemcore.schemes import get_scheme

        plan, weights, report = self.applied()
        after = sum(array.nbytes for name, array in weights.items() if name.endswith(".packed"))
        grouped = sum(get_scheme(entry.scheme).grouped for entry in plan.entries)
        self.require(
            report.bytes_after == after,
            f"its report says {report.bytes_after} bytes after packing, but there are {after}",
        )
        self.require(
            report.quantized == grouped,
            f"its report says {report.quantized} weights are in integer codes, but {grouped} are",
        )
        self.require(
            0 <= report.lossless <= len(plan.entries),
            f"its report calls {report.lossless} of {len(plan.entries)} weights lossless",
        )
        self.require(
            dict(report.skipped) == dict(plan.skipped),
            "what its report skips is not what its plan skips",
        )
        self.require(report.bytes_before > 0, "its report says the model had no bytes before")

    def test_the_same_twice(self) -> None:
        """A second run gives the same plan and the same bits."""
        (plan, weights, _), (again, others, _) = self.applied(), self.applied()
        self.require(plan == again, "its plan differs from run to run")
        for name, array in weights.items():
            self.require(
                array.tobytes() == others[name].tobytes(), f"'{name}' differs from run to run"
            )

    def test_reload_is_the_same(self) -> None:
        """Written to a file and mapped from it, every weight has the same bits."""
        from gemcore.formats.safetensors_writer import write_safetensors
        from gemcore.runtime.mapped_weights import map_weights

        _, weights, _ = self.applied()
        path = material.new_folder("weights") / "weights.safetensors"
        write_safetensors(path, weights)
        for (name, array), found in zip(
            weights.items(), map_weights(path, [*weights]), strict=True
        ):
            self.require(
                found.dtype == array.dtype and found.tobytes() == array.tobytes(),
                f"'{name}' is another when it is read from a file",
            )

    def test_the_error_is_as_declared(self) -> None:
        """What the codes stand for is within `relative_error` of the weight, for every unit."""
        from gemcore.models.weights import float_unit
        from gemcore.packing import unpack_weight
        from gemcore.schemes import get_scheme

        plan, weights, _ = self.applied()
        schemes = plan.schemes()
        for unit in _units(self.checkpoint(), plan):
            exact = float_unit(self.checkpoint(), unit).astype(np.float64)
            scheme = get_scheme(schemes[unit.name])
            found = unpack_weight(weights[f"{unit.name}.packed"], scheme, unit.shape[0])
            error = float(np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()))
            self.require(
                error <= self.relative_error,
                f"the relative error of {unit.name} is {error:.3f}, above {self.relative_error:g}: raise "
                "relative_error if that is meant",
            )

    def test_weights_that_are_no_numbers_are_refused(self) -> None:
        """A model with a NaN is an error of one sentence, not a quantized model."""
        broken = _with_nan(self.checkpoint())
        try:
            quantizer = self.create()
            quantizer.apply(broken, quantizer.plan(broken, self.calibration, None))
        except GemError:
            return
        except Exception as error:
            raise AssertionError(
                f"{self.title}: for a weight with a NaN it raises {type(error).__name__} ({error}), not "
                "a GemError"
            ) from error
        require(False, f"{self.title}: it quantizes a weight that holds a NaN")

    def test_sizes_that_fit_no_group_are_skipped_with_a_reason_or_refused(self) -> None:
        """Rows of 40 values cannot be cut into groups of 32: the plan says so, or is an error."""
        from gemcore.schemes import fits, get_scheme
        from gemcore.testing.tiny import tiny_checkpoint, tiny_config

        odd = tiny_checkpoint(tiny_config(layers=1, hidden_size=40))
        try:
            plan = self.planned(odd)
        except UsageError:
            return
        shapes = {unit.name: unit.shape for unit in _units(odd, plan)}
        wrong = [e.unit for e in plan.entries if fits(get_scheme(e.scheme), shapes[e.unit])]
        self.require(not wrong, f"it plans a scheme that does not fit {wrong[:3]}")

    def test_a_budget_is_kept_or_refused(self) -> None:
        """`plan` with a budget stays within it; one of a single byte is a UsageError."""
        plan = self.planned()
        whole = sum(entry.bytes for entry in plan.entries)
        quantizer = self.create()
        kept = quantizer.plan(self.checkpoint(), self.calibration, whole)
        used = sum(entry.bytes for entry in kept.entries)
        self.require(used <= whole, f"it takes {used} bytes of a budget of {whole}")
        try:
            quantizer.plan(self.checkpoint(), self.calibration, 1)
        except UsageError:
            return
        require(False, f"{self.title}: its plan() passes over a budget of 1 byte")

    @compiles
    def test_compiled_it_computes_as_in_torch(self) -> None:
        """The compiled model gives the logits that torch computes from the same packed weights."""
        from gemcore.api import build_parts, open_session
        from gemcore.build import compile_bundle
        from gemcore.models.eager import EagerModel
        from gemcore.models.weights import banded
        from gemcore.recipe import Recipe

        plan, weights, _ = self.applied()
        parts = build_parts(Recipe(), self.host())
        names = {**parts.names, "quantizer": self.plugin}
        known = self.host().select("target", parts.names["target"]).record.capabilities
        unknown = sorted(set(plan.schemes().values()) - known)
        if unknown:
            skip(f"the target {parts.names['target']} does not read {', '.join(unknown)}")
        parts = attrs.evolve(parts, quantizer=FixedPlan(plan, self.create()), names=names)
        folder = material.new_folder("bundle") / "quantized.gem"
        bundle = compile_bundle(self.checkpoint(), parts, folder)
        session = open_session(bundle.folder, threads=1, host=self.host())
        tokens = session.tokenizer.encode_prompt(material.PROMPT)
        model = banded(self.checkpoint(), plan)
        eager = EagerModel(model, plan.schemes(), weights, bundle.manifest.kv_cache)
        difference = float(np.abs(session.logits(tokens) - eager.logits(tokens)).max())
        self.require(
            difference <= self.tolerance,
            f"compiled, the logits differ by {difference:g} from torch's, above {self.tolerance:g}",
        )


def _units(checkpoint: Checkpoint, plan: Plan) -> tuple[WeightUnit, ...]:
    """The weights of a model, in the bands of the vocabulary that the plan asks for."""
    from gemcore.models.layout import weight_units
    from gemcore.models.weights import banded

    return weight_units(banded(checkpoint, plan).config)


def _with_nan(checkpoint: Checkpoint) -> Checkpoint:
    tensors = dict(checkpoint.tensors)
    name = next(name for name, tensor in tensors.items() if len(tensor.shape) == 2)
    values = tensors[name].to_float32()
    values[0, 0] = np.nan
    tensors[name] = attrs.evolve(tensors[name], data=values)
    return attrs.evolve(checkpoint, tensors=tensors)
