"""What a bundle holds beside the weights, and a plan counts: experts and their router.

Deltas of experts have kernels in float16 alone, and a router is some tables, so neither has a choice.
"""

from __future__ import annotations

from gemcore.experts.expert_set import read_set
from gemcore.experts.library import find_set, router_files
from gemcore.models.checkpoint import Checkpoint
from gemcore.plugins import get_host
from gemcore.reports import PlanEntry


def beside_weights(checkpoint: Checkpoint, experts: str) -> tuple[PlanEntry, ...]:
    """An entry for each expert of a set, and one for its fitted router; of several, for the largest.

    Args:
        checkpoint: the model that the experts must be for.
        experts: name of the set, or its folder.

    Raises:
        UsageError: there is no such set, or it is for another model.
        FormatError: it cannot be read.
    """
    folder = find_set(experts, get_host()).folder
    found = read_set(folder)
    found.check_base(checkpoint)
    entries = [
        PlanEntry(
            unit=f"experts.{expert.card.name}",
            scheme="f16",
            reason="deltas have kernels of no other precision",
            bytes=expert.bytes,
        )
        for expert in found.experts
    ]
    sizes = {name: path.stat().st_size for name, path in router_files(folder).items()}
    if sizes:
        name = max(sizes, key=lambda name: sizes[name])
        entries.append(
            PlanEntry(
                unit=f"router.{name}",
                scheme="as fitted",
                reason="its tables have kernels of no other precision",
                bytes=sizes[name],
            )
        )
    return tuple(entries)


def set_bytes(experts: str) -> int:
    """Bytes of all that `beside_weights` lists of a set, whatever its model."""
    folder = find_set(experts, get_host()).folder
    routers = [path.stat().st_size for path in router_files(folder).values()]
    return read_set(folder).bytes + max(routers, default=0)
