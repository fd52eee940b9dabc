"""GEM: small language models on phones, boards and NPUs.

The names below are the library's public surface. None of them is imported before it is used, so that
`import gemcore` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemcore.api import compile, load, open_session
    from gemcore.errors import GemError
    from gemcore.generation import Generation, GenerationStream
    from gemcore.hookspecs import hookimpl, hookspec
    from gemcore.perplexity import Perplexity
    from gemcore.recipe import Recipe
    from gemcore.scoring import Score
    from gemcore.session import Session
    from gemcore.text.sampling import SamplingSettings

__version__ = "0.1.0"

_HOMES = {
    "compile": "gemcore.api",
    "load": "gemcore.api",
    "open_session": "gemcore.api",
    "GemError": "gemcore.errors",
    "hookimpl": "gemcore.hookspecs",
    "hookspec": "gemcore.hookspecs",
    "Recipe": "gemcore.recipe",
    "Generation": "gemcore.generation",
    "GenerationStream": "gemcore.generation",
    "Score": "gemcore.scoring",
    "Session": "gemcore.session",
    "Perplexity": "gemcore.perplexity",
    "SamplingSettings": "gemcore.text.sampling",
}

__all__ = [
    "GemError",
    "Generation",
    "GenerationStream",
    "Perplexity",
    "Recipe",
    "SamplingSettings",
    "Score",
    "Session",
    "__version__",
    "compile",
    "hookimpl",
    "hookspec",
    "load",
    "open_session",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gemcore' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
