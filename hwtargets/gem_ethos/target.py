"""Arm's Ethos-U85 beside a Cortex-M or Cortex-A: products and feed-forward parts, each a command stream."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from gem_ethos import tools
from gem_ethos.profile import ETHOS_U85
from gemcore.errors import GemError
from gemcore.reports import DelegationReport, DeviceProfile, ExportReport, Readiness, delegated

if TYPE_CHECKING:
    from gem_ethos.vela import Estimate
    from gemcore.bundle import Bundle
    from gemcore.compiler.export import ExportedDecoder
    from gemcore.models.config import ModelConfig
    from gemcore.reports import DelegatedOperation
    from gemcore.runtime.settings import OpenSettings

UNIT, CPU = "ethos-u85", "cpu"
STREAMS = "ethos-u85"
"""Folder of the command streams."""

ESTIMATES = "estimates.json"

_NOT_HERE = (
    "target 'ethos-u85' cannot be executed here: its parts are compiled for an NPU that no emulator of "
    "GEM's has; use 'gem compile' and 'gem export', or another target to run the model"
)
_REASONS = {
    "attention": "its products are of activations, whose sizes change with every token",
    "attention_q8": "its products are of activations, whose sizes change with every token",
    "routed_lora": "which experts work is known only when the token is there",
    "routed_lora_q8": "which experts work is known only when the token is there",
    "linear_f32": "routers compute in float32",
}
_OTHER = "it computes in float32, or moves data"
_INSIDE = ("qlinear", "linear_f16", "silu_mul")


@attrs.frozen
class EthosTarget:
    """Ethos-U85 with 256 multiply-accumulates a cycle."""

    def profile(self) -> DeviceProfile:
        """What the device is, by published figures."""
        return ETHOS_U85

    def describe(self) -> dict[str, Any]:
        """The accelerator, the tools' versions and the arithmetic."""
        from gem_ethos.vela import ACCELERATOR, MEMORY, SYSTEM

        digest = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        python = tools.interpreter()
        return {
            "accelerator": ACCELERATOR,
            "system_config": SYSTEM,
            "memory_mode": MEMORY,
            "tools": tools.versions(python) if python is not None else "",
            "code": digest.hexdigest(),
        }

    def readiness(self) -> Readiness:
        """Compiled where Arm's tools are; never run."""
        return Readiness(execution="predicted", build=tools.missing_tools(), run=_NOT_HERE)

    def build(
        self, exported: ExportedDecoder, config: ModelConfig, folder: Path
    ) -> DelegationReport:
        """Write a command stream for each part, and Vela's estimates, to `folder`."""
        from gem_ethos.parts import model_parts
        from gem_ethos.vela import compile_parts
        from gemcore.compiler.operations import count_operations

        streams = folder / STREAMS
        estimates = compile_parts(model_parts(exported, config, folder), streams)
        values = {name: attrs.asdict(estimate) for name, estimate in estimates.items()}
        text = json.dumps(values, indent=1) + "\n"
        (streams / ESTIMATES).write_text(text, encoding="utf-8")
        operations = count_operations(exported.program, config, UNIT)
        return DelegationReport(
            target="ethos-u85",
            unit=UNIT,
            execution="predicted",
            operations=_delegated(operations),
            unverified=(
                estimate_sentence(estimates),
                "No command stream was executed: Arm's reference model ran their TOSA graphs, and gave "
                "NumPy's integers to the bit.",
                "What static int8 activations cost in quality was not measured; their ranges are those "
                "of one short text.",
            ),
        )

    def open(self, bundle: Bundle, settings: OpenSettings) -> NoReturn:
        """Always GemError: there is nothing here to run it on."""
        raise GemError(_NOT_HERE)

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Write command streams, estimates and weights to `folder`."""
        from gemcore.export import copy_weights

        shutil.copytree(bundle.folder / STREAMS, folder / STREAMS)
        delegation = DelegationReport.from_json(dict(bundle.manifest.delegation))
        estimate, *rest = delegation.unverified
        return ExportReport(
            files=(
                (STREAMS, "a command stream with its weights for each part, as Vela's raw NumPy archive, "
                 f"and `{ESTIMATES}`, Vela's estimates"),
                *copy_weights(bundle, folder),
            ),
            link=_LINK,
            call=_CALL,
            verified=(
                "The TOSA graph of each part gives, on Arm's reference model, the integers of NumPy's "
                "arithmetic to the bit; building the bundle checks that (`gem compile --target ethos-u85`).",
            ),
            unverified=(estimate, *rest),
        )  # fmt: skip


def estimate_sentence(estimates: dict[str, Estimate]) -> str:
    """What Vela expects of all parts together."""
    cycles = sum(e.cycles for e in estimates.values())
    seconds = sum(e.cycles / e.clock_hz for e in estimates.values())
    return (
        f"Predicted, not measured: Vela estimates {cycles:,} cycles ({seconds * 1e3:.3f} ms at its "
        f"configuration's clock) for the {len(estimates)} parts on the NPU and one token; what the CPU "
        "does comes on top."
    )


def _delegated(operations: tuple[DelegatedOperation, ...]) -> tuple[DelegatedOperation, ...]:
    elsewhere = {
        o.operation: (CPU, _REASONS.get(o.operation, _OTHER))
        for o in operations
        if o.operation not in _INSIDE
    }
    return delegated(operations, elsewhere)


_LINK = """\
Each `*_vela.npz` is what `vela --output-format raw` writes: `cmd_data` is the command stream, `weight_data` \
the encoded weights, and the other arrays say where in- and outputs lie. Arm's Ethos-U core driver \
(`ethosu_invoke`) takes them as they are; ExecuTorch's Ethos-U backend packs the same into its programs."""

_CALL = """\
For each token and layer the processor computes the norm, rounds its result to int8, runs \
`layers.N.attention.qkv`, does RoPE, the cache and attention itself, runs `layers.N.attention.out`, adds, \
computes the second norm and runs `layers.N.feed_forward`. The last part is the output head. Experts' deltas \
are added by the processor."""
