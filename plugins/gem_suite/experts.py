"""The experts of a compiled model in a run of the suite: their domains, and who knows the label."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from gemcore.errors import GemError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gem_suite.engines_text import Ids
    from gemcore.bundle import Manifest
    from gemcore.plugins import PluginHost
    from gemcore.priors import Prior

LABELLED = "labelled"
"""The capability of a router that is to be told which expert is right: `oracle`."""

LEAST_SHARE = 1e-6
"""A share of a prior that is not above this is not written down."""

Priors = dict["Ids", "Prior | None"]
"""The prior that each context got."""


def expert_domains(manifest: Manifest, host: PluginHost) -> Mapping[str, str]:
    """The domain of each expert of a compiled model, in the order of its weights.

    It is what the card says; an expert whose set cannot be found is taken for one of its name.
    """
    if not manifest.experts:
        return MappingProxyType({})
    try:
        from gemcore.experts.expert_set import expert_folders
        from gemcore.experts.files import read_card
        from gemcore.experts.library import find_set

        choice = host.select("router", manifest.router).options.get("experts")
        folders = expert_folders(find_set(choice, host).folder)
        domains = {card.name: card.domain for card in map(read_card, folders)}
    except GemError:
        domains = {}
    return MappingProxyType({name: domains.get(name, name) for name in manifest.experts})


def labelled_experts(manifest: Manifest, host: PluginHost) -> Mapping[str, str] | None:
    """By domain the expert that a router which is told the label has to use; None for any other router.

    Of several experts of a domain it is the first.
    """
    if not manifest.experts:
        return None
    try:
        record = host.select("router", manifest.router).record
    except GemError:
        return None
    if LABELLED not in record.capabilities:
        return None
    found: dict[str, str] = {}
    for name, domain in expert_domains(manifest, host).items():
        found.setdefault(domain, name)
    return MappingProxyType(found)


def prior_shares(prior: Prior, experts: tuple[str, ...]) -> dict[str, float]:
    """A prior as a result file has it: shares above `LEAST_SHARE`, to four significant digits, by expert."""
    return {
        name: float(f"{float(share):.4g}")
        for name, share in zip(experts, prior, strict=True)
        if share > LEAST_SHARE
    }
