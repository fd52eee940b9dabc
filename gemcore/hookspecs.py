"""The hooks that a plugin may implement: the whole contract between GEM and its plugins.

A hook yields frozen records (`gemcore.records`). A record names what the plugin offers and says
where its code is (`loader`), so GEM can list, search and check a plugin before any heavy module is
imported. All results of all plugins are collected; the order of plugins means nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gemcore.records import (
        BenchmarkRecord,
        ExpertSetRecord,
        MetricRecord,
        ModelSourceRecord,
        QuantizerRecord,
        RouterRecord,
        TargetRecord,
    )

PROJECT = "gem"
"""The name under which pluggy knows these hooks."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gem_routers() -> Iterable[RouterRecord]:
    """Yield the routers of this plugin: what decides, for each token, which experts work.

    Implementations must not import torch or tvm; the loader's module may.

    Returns:
        An iterable of `RouterRecord`. Each loader is called with the record's options as keyword
        arguments and returns a `gemcore.protocols.Router`.

    Example:
        >>> from types import SimpleNamespace
        >>> from gemcore.hookspecs import hookimpl
        >>> from gemcore.plugins import PluginHost
        >>> from gemcore.records import Option, RouterRecord
        >>> @hookimpl
        ... def gem_routers():
        ...     yield RouterRecord(
        ...         name="first-expert",
        ...         summary="sends every token to the first expert",
        ...         loader="my_plugin.routers:FirstExpert",
        ...         options=(Option(name="weight", type=float, default=1.0, minimum=0, maximum=1),),
        ...     )
        >>> host = PluginHost()
        >>> host.add(SimpleNamespace(gem_routers=gem_routers), name="my_plugin")
        >>> host.select("router", "first-expert:weight=0.5").options
        {'weight': 0.5}

    .. versionadded:: 0.1
    """
    return ()


@hookspec
def gem_quantizers() -> Iterable[QuantizerRecord]:
    """Yield the quantizers of this plugin: what gives every weight a storage scheme.

    Implementations must not import torch or tvm; the loader's module may.

    Returns:
        An iterable of `QuantizerRecord`. Each loader is called with the record's options as keyword
        arguments and returns a `gemcore.protocols.Quantizer`.

    Example:
        >>> from types import SimpleNamespace
        >>> from gemcore.hookspecs import hookimpl
        >>> from gemcore.plugins import PluginHost
        >>> from gemcore.records import QuantizerRecord
        >>> @hookimpl
        ... def gem_quantizers():
        ...     yield QuantizerRecord(
        ...         name="q8-all",
        ...         summary="eight bits for every weight",
        ...         loader="my_plugin.quantizers:EightBits",
        ...         reference_url="https://arxiv.org/abs/2206.01861",
        ...         capabilities={"round-to-nearest"},
        ...     )
        >>> host = PluginHost()
        >>> host.add(SimpleNamespace(gem_quantizers=gem_quantizers), name="my_plugin")
        >>> [record.name for record in host.quantizers()]
        ['q8-all']

    .. versionadded:: 0.1
    """
    return ()


@hookspec
def gem_metrics() -> Iterable[MetricRecord]:
    """Yield the metrics of this plugin: what turns recorded results into one number.

    Implementations must not import torch or tvm; the loader's module may.

    Returns:
        An iterable of `MetricRecord`. Each loader is called with the record's options as keyword
        arguments and returns a `gemcore.protocols.Metric`.

    Example:
        >>> from types import SimpleNamespace
        >>> from gemcore.hookspecs import hookimpl
        >>> from gemcore.plugins import PluginHost
        >>> from gemcore.records import MetricRecord
        >>> @hookimpl
        ... def gem_metrics():
        ...     yield MetricRecord(
        ...         name="exact-match",
        ...         summary="share of answers that equal the reference",
        ...         loader="my_plugin.metrics:ExactMatch",
        ...     )
        >>> host = PluginHost()
        >>> host.add(SimpleNamespace(gem_metrics=gem_metrics), name="my_plugin")
        >>> host.select("metric", "exact-match").record.summary
        'share of answers that equal the reference'

    .. versionadded:: 0.1
    """
    return ()


@hookspec
def gem_targets() -> Iterable[TargetRecord]:
    """Yield the targets of this plugin: the hardware that a model is compiled for.

    Implementations must not import torch or tvm; the loader's module may.

    Returns:
        An iterable of `TargetRecord`. Each loader is called with the record's options as keyword
        arguments and returns a `gemcore.protocols.Target`.

    Example:
        >>> from types import SimpleNamespace
        >>> from gemcore.hookspecs import hookimpl
        >>> from gemcore.plugins import PluginHost
        >>> from gemcore.records import Option, TargetRecord
        >>> @hookimpl
        ... def gem_targets():
        ...     yield TargetRecord(
        ...         name="my-board",
        ...         summary="the two big cores of my board",
        ...         loader="my_plugin.board:Board",
        ...         options=(Option(name="cores", type=int, default=2, minimum=1, maximum=4),),
        ...         capabilities={"q4a-g32", "f16"},
        ...     )
        >>> host = PluginHost()
        >>> host.add(SimpleNamespace(gem_targets=gem_targets), name="my_plugin")
        >>> host.select("target", "my-board:cores=9")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        gemcore.errors.UsageError: target 'my-board': option 'cores' is 9, which is above the ...

    .. versionadded:: 0.1
    """
    return ()


@hookspec
def gem_model_sources() -> Iterable[ModelSourceRecord]:
    """Yield the model sources of this plugin: where models come from, by name or by path.

    Implementations must not import torch or tvm; the loader's module may.

    Returns:
        An iterable of `ModelSourceRecord`. Each loader is called with the record's options as
        keyword arguments and returns a `gemcore.protocols.ModelSource`. Sources are asked in
        ascending `order` whether a name is theirs.

    Example:
        >>> from types import SimpleNamespace
        >>> from gemcore.hookspecs import hookimpl
        >>> from gemcore.plugins import PluginHost
        >>> from gemcore.records import ModelSourceRecord
        >>> @hookimpl
        ... def gem_model_sources():
        ...     yield ModelSourceRecord(
        ...         name="shelf",
        ...         summary="models on our own file server",
        ...         loader="my_plugin.shelf:Shelf",
        ...         models=(("tiny-1m", "a model for tests"),),
        ...         order=50,
        ...     )
        >>> host = PluginHost()
        >>> host.add(SimpleNamespace(gem_model_sources=gem_model_sources), name="my_plugin")
        >>> host.model_sources()[0].models
        (('tiny-1m', 'a model for tests'),)

    .. versionadded:: 0.1
    """
    return ()


@hookspec
def gem_benchmarks() -> Iterable[BenchmarkRecord]:
    """Yield the benchmarks of this plugin: what `gem eval suite` can ask a model.

    Implementations must not import torch or tvm; the loader's module may.

    Returns:
        An iterable of `BenchmarkRecord`. Each loader is called with the record's options as keyword
        arguments and returns a `gemcore.protocols.BenchmarkSource`, which may have any number of
        benchmarks.

    Example:
        >>> from types import SimpleNamespace
        >>> from gemcore.hookspecs import hookimpl
        >>> from gemcore.plugins import PluginHost
        >>> from gemcore.records import BenchmarkRecord
        >>> @hookimpl
        ... def gem_benchmarks():
        ...     yield BenchmarkRecord(
        ...         name="my-exams",
        ...         summary="three exams of my school",
        ...         loader="my_plugin.exams:Exams",
        ...     )
        >>> host = PluginHost()
        >>> host.add(SimpleNamespace(gem_benchmarks=gem_benchmarks), name="my_plugin")
        >>> [record.summary for record in host.benchmarks()]
        ['three exams of my school']

    .. versionadded:: 0.1
    """
    return ()


@hookspec
def gem_experts() -> Iterable[ExpertSetRecord]:
    """Yield the expert sets of this plugin: folders of experts that were trained for one base model.

    Implementations must not import torch or tvm; the loader's module may.

    Returns:
        An iterable of `ExpertSetRecord`. Each loader is called with the record's options as keyword
        arguments and returns the `Path` of the set's folder (see `gemcore.experts.expert_set`), which
        GEM only reads: whoever adds an expert to it gets a copy of their own.

    Example:
        >>> from types import SimpleNamespace
        >>> from gemcore.hookspecs import hookimpl
        >>> from gemcore.plugins import PluginHost
        >>> from gemcore.records import ExpertSetRecord
        >>> @hookimpl
        ... def gem_experts():
        ...     yield ExpertSetRecord(
        ...         name="clinic",
        ...         summary="three experts for a hospital's notes",
        ...         base_name="smollm2-135m",
        ...         loader="my_plugin.experts:folder",
        ...     )
        >>> host = PluginHost()
        >>> host.add(SimpleNamespace(gem_experts=gem_experts), name="my_plugin")
        >>> [record.base_name for record in host.expert_sets()]
        ['smollm2-135m']

    .. versionadded:: 0.2
    """
    return ()
