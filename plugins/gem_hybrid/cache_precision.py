"""The precision of keys and values, as one more choice of the plan."""

from __future__ import annotations

from gem_hybrid.assignment import Choice
from gem_hybrid.divergence import cache_divergence
from gem_hybrid.sensitivity import KV_CACHE, UnitChoices
from gem_hybrid.states import Windows
from gemcore.errors import UsageError
from gemcore.models.cache_layout import (
    CACHE_SCHEMES,
    KEY_BLOCK,
    cache_dtype,
    cache_shapes,
    check_cache_scheme,
)
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.config import ModelConfig

AUTO = "auto"
"""The option's value that leaves the choice to the plan."""


def cache_bytes(config: ModelConfig, scheme: str, tokens: int) -> int:
    """Bytes of the keys and values of so many tokens, in all layers."""
    capacity = -(-tokens // KEY_BLOCK) * KEY_BLOCK
    width = {"uint8": 1, "float16": 2}[cache_dtype(scheme)]
    total = 0
    for shape in cache_shapes(config, capacity, scheme):
        size = width
        for length in shape:
            size *= length
        total += size
    return config.layers * total


def cache_choices(
    checkpoint: Checkpoint, wanted: str, tokens: int | None, windows: Windows
) -> UnitChoices:
    """The schemes that keys and values may have, each with the KL that it was measured to cost alone.

    Args:
        checkpoint: the model.
        wanted: a cache scheme, or `auto` for a choice among all.
        tokens: whose keys and values count; None for as many as the model can attend to.
        windows: token ids to measure on.

    Raises:
        UsageError: the model cannot have the scheme, or so many tokens.
    """
    config = checkpoint.config
    count = config.context_length if tokens is None else tokens
    if count > config.context_length:
        raise UsageError(
            f"quantizer 'hybrid': context={count}, but model '{checkpoint.name}' attends to at most "
            f"{config.context_length} tokens"
        )
    choices, obstacles = [], []
    for scheme in CACHE_SCHEMES if wanted == AUTO else (wanted,):
        try:
            check_cache_scheme(scheme, config)
        except UsageError as error:
            if wanted != AUTO:
                raise
            obstacles.append((scheme, str(error)))
            continue
        found = cache_divergence(checkpoint, scheme, windows)
        size = cache_bytes(config, scheme, count)
        choices.append(Choice(scheme=scheme, bytes=size, error=max(0.0, found.kl)))
    return UnitChoices(unit=KV_CACHE, weights=0, choices=tuple(choices), obstacles=tuple(obstacles))
