"""What GEM says of its own work: plans, what was quantized, where operations ran, what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs


@attrs.frozen(kw_only=True)
class PlanEntry:
    """The scheme of one weight.

    Attributes:
        unit: name of the weight in the decoder (`gemcore.models.layout.WeightUnit.name`).
        scheme: name of its packing scheme.
        reason: why this scheme, in a few words.
        bytes: packed size.
        expected_error: the quantizer's own estimate, in its own unit; None where it has none.
    """

    unit: str
    scheme: str
    reason: str
    bytes: int
    expected_error: float | None = None


@attrs.frozen(kw_only=True)
class Plan:
    """A scheme for every weight of a model.

    Attributes:
        quantizer: the quantizer, with its options, as the user could type it.
        entries: one for each weight unit.
        skipped: weights that did not get the scheme that was asked for, and why.
        kv_cache: the scheme of keys and values, where the quantizer chooses that, too; its bytes are those
            of as many tokens as it was asked to count.
        beside: what counts in a budget and has no choice of precision: experts and their router.
        vocabulary_bands: as `ModelConfig` has them: the entries then are those of the bands.
    """

    quantizer: str
    entries: tuple[PlanEntry, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    kv_cache: PlanEntry | None = None
    beside: tuple[PlanEntry, ...] = ()
    vocabulary_bands: tuple[int, ...] = ()

    def schemes(self) -> dict[str, str]:
        """Unit name to scheme name."""
        return {entry.unit: entry.scheme for entry in self.entries}


@attrs.frozen(kw_only=True)
class QuantizationReport:
    """What a quantizer did.

    Attributes:
        quantized: number of weights stored in integer codes.
        lossless: how many of them were repacked from the file's own codes without any rounding.
        skipped: weights that did not get the scheme that was asked for, and why.
        bytes_before, bytes_after: size of the linear weights in the file and packed.
    """

    quantized: int
    lossless: int
    skipped: tuple[tuple[str, str], ...]
    bytes_before: int
    bytes_after: int


@attrs.frozen(kw_only=True)
class MetricResult:
    """A measured number.

    Attributes:
        value: the number.
        low, high: confidence interval; None where there is none.
        higher_is_better: direction.
        version: version of the definition: numbers of different versions must not be compared.
    """

    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    version: int = 1


@attrs.frozen(kw_only=True)
class Sourced:
    """A figure and where it comes from."""

    value: float
    source: str


Execution = Literal["native", "emulated", "predicted", "none"]
"""How a model of some target runs: on its own hardware, on an emulator of it, only in a model of its cost,
or not at all. What an emulator or a cost model says is never a speed of the device."""


@attrs.frozen(kw_only=True)
class Readiness:
    """What can be done with a target on this machine.

    Attributes:
        execution: how a model that was compiled for it would run here.
        build: why none can be compiled here, as one sentence that says what to install; empty where it can.
        run: why none can run here, likewise.
    """

    execution: Execution
    build: str = ""
    run: str = ""


@attrs.frozen(kw_only=True)
class DeviceProfile:
    """What a device is, each figure with its source; None where no source is known.

    Attributes:
        name: of the target.
        device: what is meant, as its maker calls it.
        cores: processor cores that GEM uses.
        clock_hz: of those cores.
        memory_bytes: main memory.
        bandwidth: bytes a second from main memory.
        int8_rate: peak int8 multiply-accumulates a second.
        fp16_rate, fp32_rate: peak float16 and float32 multiply-accumulates a second.
        joules_per_token: energy of one generated token; None unless somebody measured it.
    """

    name: str
    cores: int
    device: str = ""
    clock_hz: Sourced | None = None
    memory_bytes: Sourced | None = None
    bandwidth: Sourced | None = None
    int8_rate: Sourced | None = None
    fp16_rate: Sourced | None = None
    fp32_rate: Sourced | None = None
    joules_per_token: Sourced | None = None


@attrs.frozen(kw_only=True)
class DelegatedOperation:
    """One kind of operation and where it runs.

    Attributes:
        operation: name of the op, for example `qlinear`.
        unit: where it runs, for example `avx512-vnni`, `hvx`, `cpu`.
        count: calls in one pass.
        multiply_accumulates: of one token, over all calls.
        reason: why it is not on the target's own unit; empty where it is.
        memory_bytes: of weights and cache that one token reads, over all calls.
        float_operations: of one token, over all calls: what brings the integer sums of products of int8
            back to float32.
    """

    operation: str
    unit: str
    count: int
    multiply_accumulates: int
    reason: str = ""
    memory_bytes: int = 0
    float_operations: int = 0


@attrs.frozen(kw_only=True)
class DelegationReport:
    """Which unit of the target runs what, and how its numbers were obtained.

    Attributes:
        target: name of the target.
        unit: the unit that the user asked for.
        execution: how the model runs on the machine that built it.
        operations: one entry for each kind of operation and unit.
        unverified: what could not be checked on the machine that built it, a sentence each.
    """

    target: str
    unit: str
    execution: Execution
    operations: tuple[DelegatedOperation, ...]
    unverified: tuple[str, ...] = ()

    def share(self, unit: str | None = None) -> float:
        """Share of the multiply-accumulates that run on `unit` (by default the one asked for)."""
        total = sum(operation.multiply_accumulates for operation in self.operations)
        chosen = unit or self.unit
        done = sum(o.multiply_accumulates for o in self.operations if o.unit == chosen)
        return done / total if total else 1.0

    def fallbacks(self) -> tuple[DelegatedOperation, ...]:
        """Operations with multiply-accumulates that run elsewhere than on the target's own unit."""
        return tuple(o for o in self.operations if o.reason and o.multiply_accumulates)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DelegationReport:
        """The report of a manifest; KeyError or TypeError where it is none."""
        operations = tuple(DelegatedOperation(**entry) for entry in values["operations"])
        rest = {"unverified": tuple(values.get("unverified", ()))}
        return cls(**{**values, **rest, "operations": operations})


def delegated(
    operations: Iterable[DelegatedOperation], elsewhere: Mapping[str, tuple[str, str]]
) -> tuple[DelegatedOperation, ...]:
    """The same operations, with those that `elsewhere` names on another unit, for a reason.

    >>> matmul = DelegatedOperation(operation="qlinear", unit="npu", count=2, multiply_accumulates=8)
    >>> delegated([matmul], {"qlinear": ("cpu", "no kernel")})[0].unit
    'cpu'
    """
    return tuple(
        attrs.evolve(o, unit=elsewhere[o.operation][0], reason=elsewhere[o.operation][1])
        if o.operation in elsewhere
        else o
        for o in operations
    )


@attrs.frozen(kw_only=True)
class ExportReport:
    """What `Target.export` wrote, and what its README is to say.

    Attributes:
        files: relative path and what the file is, for each one.
        link: how to link or install it, in Markdown.
        call: how to call it, in Markdown.
        verified: what was verified, how, and the command that does it again; a sentence each.
        unverified: what could not be, and why; a sentence each.
    """

    files: tuple[tuple[str, str], ...]
    link: str
    call: str
    verified: tuple[str, ...]
    unverified: tuple[str, ...] = ()
