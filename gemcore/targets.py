"""What the core asks of every target before it uses one, and the sentence where the answer is no."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemcore.errors import BundleError, GemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gemcore.bundle import Bundle
    from gemcore.protocols import Target
    from gemcore.records import PluginRecord
    from gemcore.reports import DelegationReport
    from gemcore.runtime.settings import OpenSettings

RPC = "rpc"
"""The capability of a target whose models can run on a device that is reached over TVM's RPC."""

ROUTED = "routed_lora"
"""The capability of a target that has kernels for models with a router."""

BANDS = "vocabulary-bands"
"""The capability of a target that takes embeddings and heads in several bands of rows."""


def needed_capabilities(
    schemes: Mapping[str, str], kv_cache: str, *, routed: bool, bands: bool = False
) -> dict[str, str]:
    """What a target must be able to do for a model: each capability with the part that needs it.

    >>> needed_capabilities({"head": "q8-g32"}, "f16", routed=False)
    {'q8-g32': "weight 'head'", 'cache-f16': "kv-cache 'f16'"}
    """
    needs: dict[str, str] = {}
    for weight, scheme in schemes.items():
        needs.setdefault(scheme, f"weight '{weight}'")
    needs[f"cache-{kv_cache}"] = f"kv-cache '{kv_cache}'"
    if bands:
        needs[BANDS] = "the plan"
    return {**needs, **({ROUTED: "the router"} if routed else {})}


def check_capabilities(target: str, capabilities: Iterable[str], needs: Mapping[str, str]) -> None:
    """Raise GemError where a target has no kernels for something that a model needs."""
    able = set(capabilities)
    for capability, part in needs.items():
        if capability in able:
            continue
        if capability == ROUTED:
            raise GemError(
                f"target '{target}' has no kernels for models with a router: choose '--router none'"
            )
        if capability == BANDS:
            raise GemError(
                f"target '{target}' has no embedding in bands, as the plan has it: add bands=1 to the "
                "quantizer"
            )
        if capability.startswith("cache-"):
            caches = sorted(
                name.removeprefix("cache-") for name in able if name.startswith("cache-")
            )
            raise GemError(
                f"target '{target}' has no kernel for {part}: choose one of {', '.join(caches) or 'none'}"
            )
        schemes = sorted(name for name in able if name == "f16" or name.startswith("q"))
        raise GemError(
            f"target '{target}' has no kernel for the scheme '{capability}' of {part}: "
            f"choose a quantizer with {', '.join(schemes)}"
        )


def check_can_build(target: Target) -> None:
    """Raise GemError, with what to install, where this machine cannot build for `target`."""
    reason = target.readiness().build
    if reason:
        raise GemError(reason)


def check_can_open(record: PluginRecord, target: Target, settings: OpenSettings) -> None:
    """Raise UsageError or GemError where a bundle of `target` cannot run as `settings` say."""
    if settings.rpc is not None:
        if RPC not in record.capabilities:
            raise UsageError(f"target '{record.name}' cannot be reached over RPC: drop --rpc")
        return
    reason = target.readiness().run
    if reason:
        raise GemError(reason)


def check_machine(bundle: Bundle, target: str, machine: str) -> None:
    """Raise BundleError where a bundle is not for the `machine` that `target` names in its details."""
    made_for = bundle.manifest.target_details.get("machine")
    if made_for != machine:
        raise BundleError(
            f"bundle {bundle.folder} was compiled for {made_for}, and target '{target}' is {machine}: "
            "compile the model again"
        )


def refuse_fallback(report: DelegationReport) -> None:
    """Raise GemError where a part of the work is left to another unit than the target's own."""
    fallbacks = report.fallbacks()
    if not fallbacks:
        return
    total = sum(operation.multiply_accumulates for operation in report.operations)
    share = sum(operation.multiply_accumulates for operation in fallbacks) / total
    parts = ", ".join(f"{o.operation} on {o.unit} ({o.reason})" for o in fallbacks)
    raise GemError(
        f"target '{report.target}' leaves {share:.1%} of the multiply-accumulates to other units: {parts}; "
        "drop --require-target to accept that"
    )


def check_no_fallback(bundle: Bundle) -> None:
    """`refuse_fallback` for the report in a bundle."""
    from gemcore.reports import DelegationReport

    try:
        report = DelegationReport.from_json(bundle.manifest.delegation)
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"bundle {bundle.folder} does not say which unit does what: compile the model again"
        ) from error
    refuse_fallback(report)
