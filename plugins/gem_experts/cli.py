"""`gem experts`: the group; each command has a module of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from gemcore.cli.main import LazyGroup

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "list": ("gem_experts.cli_list:list_command", "List the experts of a set."),
        "show": ("gem_experts.cli_show:show_command", "Show an expert's card."),
        "add": ("gem_experts.cli_add:add_command", "Add an expert, or a LoRA adapter, to a set."),
        "score": ("gem_experts.cli_score:score_command", "Measure experts on their own domain."),
        "remove": ("gem_experts.cli_remove:remove_command", "Remove an expert from a set."),
    }
)
"""The commands of the group; others are entry points such as `experts.train`."""


@click.group(cls=LazyGroup, table=COMMANDS)
def experts() -> None:
    """Look after experts: what a model knows of a domain beyond its base."""
