"""What the suites work on: a tiny model, experts for it, and folders that go when the process ends."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gemcore.testing.tiny import tiny_checkpoint, tiny_config

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.experts.expert_set import ExpertSet
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.plugins import PluginHost

PROMPT = "Which law says that 2 + 2 = 4; and why?"
"""A text of letters, digits and signs for the tiny model."""


@functools.cache
def scratch() -> Path:
    """A folder that is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="gem-testing-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def new_folder(prefix: str) -> Path:
    """A new, empty folder within `scratch()`."""
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=scratch()))


@functools.cache
def checkpoint() -> Checkpoint:
    """The tiny model: two layers whose sizes every packing scheme fits."""
    return tiny_checkpoint(tiny_config(intermediate_size=128, context_length=256))


@functools.cache
def experts() -> ExpertSet:
    """Three experts of the tiny model, in a folder; their deltas are large enough to be seen."""
    from gemcore.testing.experts import write_tiny_set

    return write_tiny_set(new_folder("experts"), checkpoint(), scale=0.5)


def tiny_bundle(host: PluginHost) -> Bundle:
    """The tiny model, compiled for this machine with GEM's defaults.

    It is kept in the user's cache like any other, so only the first run on a machine compiles it.
    """
    from gemcore.api import build_parts
    from gemcore.build import cached_bundle
    from gemcore.recipe import Recipe

    model = checkpoint()
    return cached_bundle(model.identity, lambda: model, build_parts(Recipe(), host))
