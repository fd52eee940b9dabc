"""The checks of a target: it builds, reports all of the model's work, and runs or says why not."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError
from gemcore.reports import DelegationReport, DeviceProfile, Readiness
from gemcore.testing import material
from gemcore.testing.conformance import PluginConformance, compiles, require, skip
from gemcore.testing.fixed_plan import FixedPlan

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.weights import Weights
    from gemcore.reports import Plan

TOKENS = 7
EXECUTIONS = ("native", "emulated", "predicted", "none")


class TargetConformance(PluginConformance):
    """Subclass this and set `plugin` to test a target.

    Attributes:
        tolerance: how far logits may be from those of torch.
        runs_here: the target must run on the machine of the test; False where it may refuse, by a GemError
            that says why.
    """

    kind: ClassVar[str] = "target"
    tolerance: ClassVar[float] = 1e-3
    runs_here: ClassVar[bool] = True

    def checkpoint(self) -> Checkpoint:
        """The model that is compiled."""
        return material.checkpoint()

    def test_the_profile_says_where_its_figures_are_from(self) -> None:
        """Cores and figures are positive, and each figure has a source."""
        profile = self.create().profile()
        self.require(
            isinstance(profile, DeviceProfile),
            f"its profile() returns {type(profile).__name__}, not a DeviceProfile",
        )
        self.require(profile.cores >= 1, f"its profile has {profile.cores} cores")
        for name in ("memory_bytes", "bandwidth", "int8_rate", "fp16_rate"):
            figure = getattr(profile, name)
            if figure is not None:
                self.require(figure.value > 0, f"its {name} is {figure.value}")
                self.require(figure.source.strip(), f"its {name} has no source")

    def test_what_a_bundle_remembers_is_json(self) -> None:
        """`describe` gives JSON values, the same each time: they name the bundle in the cache."""
        first, second = self.create().describe(), self.create().describe()
        try:
            copied = json.loads(json.dumps(first, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{self.title}: its describe() is no JSON: {error}") from error
        self.require(copied == first, "its describe() changes when it is written as JSON and read")
        self.require(first == second, "its describe() differs from time to time")

    def test_it_names_schemes_that_there_are(self) -> None:
        """Its record's capabilities name at least one packing scheme that its kernels read."""
        self.require(self._schemes(), "its capabilities name no packing scheme, such as 'q8-g32'")

    def test_it_says_what_it_is_ready_for(self) -> None:
        """`readiness` names how it runs, and gives one sentence for each thing that cannot be done here."""
        ready = self.create().readiness()
        self.require(
            isinstance(ready, Readiness),
            f"its readiness() returns {type(ready).__name__}, not a Readiness",
        )
        self.require(
            ready.execution in EXECUTIONS,
            f"its readiness() calls the execution '{ready.execution}'",
        )
        for name, sentence in (("build", ready.build), ("run", ready.run)):
            self.require(
                len(sentence.splitlines()) <= 1, f"its readiness().{name} is more than one sentence"
            )

    @compiles
    def test_it_builds_runs_and_exports(self) -> None:
        """A model of all its schemes: report and logits are right, or it says why it cannot run."""
        from gemcore.export import export_bundle
        from gemcore.models.eager import EagerModel

        target = self.create()
        ready = target.readiness()
        if ready.build:
            skip(ready.build)
        plan, checkpoint = self._plan(), self.checkpoint()
        bundle = self._build(target, plan)
        self._check_report(DelegationReport.from_json(bundle.manifest.delegation), plan)
        report = export_bundle(bundle, self.create(), material.new_folder("export") / "exported")
        self.require(report.files, "its export() names no files")
        try:
            if ready.run:
                raise GemError(ready.run)
            logits = self._run(self.create(), bundle)
        except GemError as error:
            require(
                not self.runs_here and len(str(error).splitlines()) == 1,
                f"{self.title}: it does not run here: {error}",
            )
            return
        weights = _packed(checkpoint, plan)
        expected = EagerModel(checkpoint, plan.schemes(), weights).logits(_token_ids().tolist())
        difference = float(np.abs(logits - expected).max())
        self.require(
            difference <= self.tolerance,
            f"its logits differ from torch's by {difference:g}, more than {self.tolerance:g}",
        )

    def _build(self, target: Any, plan: Plan) -> Bundle:
        from gemcore.build import BuildParts, compile_bundle

        host = self.host()
        parts = BuildParts(
            router=host.create(host.select("router", "none")),
            quantizer=FixedPlan(plan),
            target=target,
            names={"router": "none", "quantizer": "conformance", "target": self.plugin},
            capabilities=self.selection().record.capabilities,
        )
        return compile_bundle(self.checkpoint(), parts, material.new_folder("target") / "model.gem")

    def _check_report(self, report: DelegationReport, plan: Plan) -> None:
        from gemcore.compiler.export import export_decoder
        from gemcore.compiler.operations import count_operations

        config = self.checkpoint().config
        exported = export_decoder(config, plan.schemes())
        counted = count_operations(exported.program, config, "any")
        whole = sum(operation.multiply_accumulates for operation in counted)
        told = sum(operation.multiply_accumulates for operation in report.operations)
        self.require(
            told == whole,
            f"its report accounts for {told} multiply-accumulates a token, but the model has {whole}",
        )
        for operation in report.operations:
            if operation.unit != report.unit:
                self.require(
                    operation.reason.strip(),
                    f"its report gives no reason why {operation.operation} is on {operation.unit} and not "
                    f"on {report.unit}",
                )
        self.require(
            report.execution in EXECUTIONS,
            f"its report calls the execution '{report.execution}'",
        )

    def _run(self, target: Any, bundle: Bundle) -> npt.NDArray[np.float32]:
        """Logits of a prompt that is read in two passes, then a single token."""
        from gemcore.runtime.settings import OpenSettings

        executor = target.open(bundle, OpenSettings(threads=1))
        self.require(
            executor.execution in EXECUTIONS, f"its executor calls itself '{executor.execution}'"
        )
        cache = executor.new_cache(self.checkpoint().config, bundle.manifest.kv_cache)
        cache.reserve(TOKENS)
        parts = []
        for start, stop in itertools.pairwise((0, 4, TOKENS - 1, TOKENS)):
            rows = np.arange(stop - start, dtype=np.int32)
            ids = _token_ids()[start:stop]
            parts.append(executor.forward(ids, _placement(start, stop), rows, cache))
        return np.concatenate(parts)

    def _schemes(self) -> list[str]:
        from gemcore.schemes import SCHEMES

        return sorted(self.selection().record.capabilities & SCHEMES.keys())

    def _plan(self) -> Plan:
        """A plan in which the weights take all schemes of the target in turn."""
        from gemcore.models.layout import weight_units
        from gemcore.reports import Plan, PlanEntry

        units = weight_units(self.checkpoint().config)
        chosen = zip(units, itertools.cycle(self._schemes()), strict=False)
        entries = [PlanEntry(unit=u.name, scheme=s, reason="all", bytes=0) for u, s in chosen]
        return Plan(quantizer="conformance", entries=tuple(entries))


def _packed(checkpoint: Checkpoint, plan: Plan) -> Weights:
    from gemcore.models.weights import pack_checkpoint

    weights, _ = pack_checkpoint(checkpoint, plan)
    return weights


def _token_ids() -> npt.NDArray[np.int32]:
    return np.arange(40, 40 + TOKENS, dtype=np.int32)


def _placement(start: int, stop: int) -> npt.NDArray[np.int32]:
    from gemcore.models.cache_layout import PLACEMENT_FIELDS

    placement = np.zeros((stop - start, PLACEMENT_FIELDS), np.int32)
    placement[:, :2] = np.arange(start, stop, dtype=np.int32)[:, None]
    return placement
