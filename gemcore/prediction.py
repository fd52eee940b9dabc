"""How fast a model could be on a device: a roofline over the bytes and operations of its own kernels.

For each kind of operation the time is the larger of two: its arithmetic at the device's peak rates, and its
bytes of weights and cache at the device's bandwidth (Williams, Waterman and Patterson, "Roofline", 2009).
Arithmetic is multiply-accumulates, and for products of int8 what brings each group's sum back to float32. A
prompt reads its weights once for every pass of at most 128 tokens. Nothing else is counted: no overhead of
calls, no elementwise work, no cache that keeps weights from one token to the next. So the result is a limit
by published figures, and never a measurement.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from gemcore.errors import BundleError, GemError
from gemcore.reports import DelegationReport, DeviceProfile, Sourced

if TYPE_CHECKING:
    from gemcore.reports import DelegatedOperation
    from gemcore.session import Session

COUNTED_CONTEXT = 256
"""Positions at which a report counts the work of attention; see `gemcore.compiler.operations`."""

PASS_TOKENS = 128
"""Tokens of a prompt in one pass, as `gemcore.session.PREFILL_CHUNK`."""

ATTENTION = ("attention", "attention_q8")
"""Operations whose work grows with the context."""

_INTEGERS = ("qlinear",)
"""Operations whose products are of int8; the others multiply floats."""

CHECK_TURNS = 5
"""How often this machine's limits and its speed are measured, in turns."""

_MEMORY, _ARITHMETIC = "memory", "arithmetic"


@attrs.frozen(kw_only=True)
class Prediction:
    """What a device could do at best.

    Attributes:
        device: name of the target.
        ttft: seconds from the prompt to the first token; None where a figure is missing.
        tokens_per_second: of decoding behind the prompt.
        decode_limit, prefill_limit: `memory` or `arithmetic`, whichever takes most of the time.
        joules_per_token: energy, where a source measured it.
        missing: which figure of the device no source is known for, as a sentence; empty otherwise.
    """

    device: str
    ttft: float | None = None
    tokens_per_second: float | None = None
    decode_limit: str = ""
    prefill_limit: str = ""
    joules_per_token: float | None = None
    missing: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; seconds and tokens a second."""
        return {"execution": "predicted", **attrs.asdict(self)}


@attrs.frozen(kw_only=True)
class HostCheck:
    """The prediction for this machine beside a measurement.

    Attributes:
        device: name of the target.
        threads: that measured.
        bandwidth: bytes a second, measured.
        clock_hz: cycles a second, measured.
        predicted_ttft, measured_ttft: seconds to the first token.
        predicted_speed, measured_speed: tokens a second of decoding.
        load: how many programs wanted a core in the minute before, by the operating system's average.
    """

    device: str
    threads: int
    bandwidth: float
    clock_hz: float
    predicted_ttft: float
    measured_ttft: float
    predicted_speed: float
    measured_speed: float
    load: float = 0.0

    @property
    def ttft_error(self) -> float:
        """Predicted relative to measured time to first token, less one."""
        return self.predicted_ttft / self.measured_ttft - 1

    @property
    def speed_error(self) -> float:
        """Predicted relative to measured tokens a second, less one."""
        return self.predicted_speed / self.measured_speed - 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with both errors."""
        errors = {"ttft_error": self.ttft_error, "speed_error": self.speed_error}
        return {**attrs.asdict(self), **errors}


def predict(
    profile: DeviceProfile, delegation: Mapping[str, Any], prompt_tokens: int
) -> Prediction:
    """Predict a device's speed with a model.

    Args:
        profile: the device.
        delegation: the `DelegationReport` of a bundle of the model, as JSON.
        prompt_tokens: of the prompt.

    Raises:
        BundleError: the report is damaged, or of an earlier GEM that did not count bytes.
    """
    operations = _operations(delegation)
    energy = profile.joules_per_token
    joules = None if energy is None else energy.value
    known = Prediction(device=profile.name, joules_per_token=joules)
    if profile.bandwidth is None or profile.int8_rate is None:
        figure = "memory bandwidth" if profile.bandwidth is None else "int8 rate"
        return attrs.evolve(known, missing=f"no source is known for its {figure}")
    floats = profile.fp32_rate or profile.fp16_rate
    if floats is None:
        return attrs.evolve(known, missing="no source is known for its rate of float products")
    rates = (profile.int8_rate.value, floats.value)
    decode = _time(operations, rates, profile.bandwidth.value, prompt_tokens, tokens=1)
    prefill = _time(
        operations, rates, profile.bandwidth.value, prompt_tokens / 2, tokens=prompt_tokens
    )
    return attrs.evolve(
        known,
        ttft=sum(prefill.values()),
        tokens_per_second=1 / sum(decode.values()),
        decode_limit=max(decode, key=decode.__getitem__),
        prefill_limit=max(prefill, key=prefill.__getitem__),
    )


def as_measured(profile: DeviceProfile, check: HostCheck) -> DeviceProfile:
    """The profile with the limits that `check` measured, where it is of the same device."""
    if profile.name != check.device:
        return profile
    return _with_limits(profile, check.bandwidth, check.clock_hz)


def _with_limits(profile: DeviceProfile, bandwidth: float, clock_hz: float) -> DeviceProfile:
    """The profile with a measured bandwidth, and with its rates at a measured clock."""
    known = profile.clock_hz
    if known is None:
        return attrs.evolve(profile, bandwidth=Sourced(value=bandwidth, source="measured"))

    def at_clock(rate: Sourced | None) -> Sourced | None:
        if rate is None:
            return None
        return Sourced(value=rate.value * clock_hz / known.value, source=rate.source)

    return attrs.evolve(
        profile,
        bandwidth=Sourced(value=bandwidth, source="measured"),
        clock_hz=Sourced(value=clock_hz, source="measured"),
        int8_rate=at_clock(profile.int8_rate),
        fp16_rate=at_clock(profile.fp16_rate),
        fp32_rate=at_clock(profile.fp32_rate),
    )


def _operations(delegation: Mapping[str, Any]) -> tuple[DelegatedOperation, ...]:
    try:
        operations = DelegationReport.from_json(delegation).operations
    except (KeyError, TypeError) as error:
        raise BundleError("the bundle's report of operations is damaged: compile again") from error
    if not any(operation.memory_bytes for operation in operations):
        raise BundleError("the bundle does not say how many bytes a token reads: compile again")
    return operations


def _time(
    operations: tuple[DelegatedOperation, ...],
    rates: tuple[float, float],
    bandwidth: float,
    context: float,
    *,
    tokens: int,
) -> dict[str, float]:
    """Seconds that memory and arithmetic limit, for `tokens` that see `context` positions on average."""
    spent = {_MEMORY: 0.0, _ARITHMETIC: 0.0}
    passes = math.ceil(tokens / PASS_TOKENS)
    for operation in operations:
        attends = operation.operation in ATTENTION
        share = context / COUNTED_CONTEXT if attends else 1.0
        rate = rates[0] if operation.operation in _INTEGERS else rates[1]
        # The head is computed for the last token of a prompt alone; it is one call among many of its kind,
        # so that the prompt's arithmetic is counted a little too high.
        work = operation.multiply_accumulates * share * tokens / rate
        work += operation.float_operations * tokens / rates[1]
        memory = operation.memory_bytes * share * passes / bandwidth
        spent[_MEMORY if memory > work else _ARITHMETIC] += max(memory, work)
    return spent


def check_host(session: Session, prompt_tokens: int, new_tokens: int) -> HostCheck:
    """Measure a session of this machine, and compare with its prediction.

    Its bandwidth and its clock are measured too, with the same threads and in turns with the session; how
    much it computes in a cycle comes from the target's profile. Of everything the fastest turn counts: a
    limit is one of an undisturbed machine, and what else runs on this one only ever takes time away.

    Raises:
        GemError: the target's profile has no rates.
    """
    from gemcore.benchmark import measure
    from gemcore.plugins import get_host
    from gemcore.profile import native_executor
    from gemcore.runtime.bandwidth import clock_hz, memory_bandwidth

    executor = native_executor(session)
    host = get_host()
    profile = host.create(host.select("target", session.bundle.manifest.target)).profile()
    load = os.getloadavg()[0]
    bandwidth = clock = speed = 0.0
    ttft = math.inf
    for _ in range(CHECK_TURNS):
        bandwidth = max(bandwidth, memory_bandwidth(executor.library))
        clock = max(clock, clock_hz(executor.library))
        result = measure(
            session,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            threads=executor.threads,
            repetitions=1,
        )
        ttft = min(ttft, result.ttft.lowest / 1e3)
        speed = max(speed, result.decode.highest)
    measured = _with_limits(profile, bandwidth, clock)
    # Half the tokens are generated when the average one is.
    context = prompt_tokens + new_tokens // 2
    prompt = predict(measured, session.bundle.manifest.delegation, prompt_tokens)
    decode = predict(measured, session.bundle.manifest.delegation, context)
    if prompt.ttft is None or decode.tokens_per_second is None:
        raise GemError(f"this machine cannot be predicted: {prompt.missing}")
    return HostCheck(
        device=profile.name,
        threads=executor.threads,
        bandwidth=bandwidth,
        clock_hz=clock,
        predicted_ttft=prompt.ttft,
        measured_ttft=ttft,
        predicted_speed=decode.tokens_per_second,
        measured_speed=speed,
        load=load,
    )
