"""What the tests of a plugin need: suites to subclass, a tiny model, and experts for it.

A plugin's test is a class that names the plugin and inherits the checks of its kind:

    from gemcore.testing import RouterConformance

    class TestTokenHash(RouterConformance):
        plugin = "token-hash"

The pytest fixtures of `gemcore.testing.fixtures` are there wherever GEM is installed. None of the names
below is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemcore.testing.benchmark_suite import BenchmarkConformance
    from gemcore.testing.conformance import PluginConformance, compiles, require, skip
    from gemcore.testing.experts import tiny_expert, write_tiny_set
    from gemcore.testing.metric_suite import MetricConformance
    from gemcore.testing.model_folder import write_tiny_model
    from gemcore.testing.quantizer_suite import QuantizerConformance
    from gemcore.testing.router_suite import RouterConformance
    from gemcore.testing.target_suite import TargetConformance
    from gemcore.testing.tiny import tiny_checkpoint, tiny_config

_HOMES = {
    "BenchmarkConformance": "benchmark_suite",
    "MetricConformance": "metric_suite",
    "PluginConformance": "conformance",
    "QuantizerConformance": "quantizer_suite",
    "RouterConformance": "router_suite",
    "TargetConformance": "target_suite",
    "compiles": "conformance",
    "require": "conformance",
    "skip": "conformance",
    "tiny_checkpoint": "tiny",
    "tiny_config": "tiny",
    "tiny_expert": "experts",
    "write_tiny_model": "model_folder",
    "write_tiny_set": "experts",
}

__all__ = [
    "BenchmarkConformance",
    "MetricConformance",
    "PluginConformance",
    "QuantizerConformance",
    "RouterConformance",
    "TargetConformance",
    "compiles",
    "require",
    "skip",
    "tiny_checkpoint",
    "tiny_config",
    "tiny_expert",
    "write_tiny_model",
    "write_tiny_set",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gemcore.testing' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"gemcore.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
