"""From a recipe to a bundle: load, plan, pack, trace, compile, in one place and in this order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gemcore.bundle import (
    ENCODER_TOKENIZER,
    TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    Bundle,
    Manifest,
    current_versions,
    new_bundle,
    open_bundle,
    text_entry,
)
from gemcore.cache import cache_folder, cache_root, explained, locked
from gemcore.errors import BundleError, PluginError, UsageError
from gemcore.models.cache_layout import DEFAULT_CACHE, check_cache_scheme
from gemcore.routing import EncoderPrior, Routing, routing_content, routing_of
from gemcore.targets import (
    check_can_build,
    check_capabilities,
    needed_capabilities,
    refuse_fallback,
)

if TYPE_CHECKING:
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.weights import Weights
    from gemcore.protocols import Quantizer, Router, Target
    from gemcore.reports import Plan

Step = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@attrs.frozen(kw_only=True)
class BuildParts:
    """The plugins of a build, and how the user could type them.

    Attributes:
        router, quantizer, target: the plugins.
        names: their words with all options, for manifest and cache: keys `router`, `quantizer`, `target`.
        sources: distributions and versions that they come from: a new version makes a new bundle.
        kv_cache: scheme of the cache, one of `gemcore.models.cache_layout.CACHE_SCHEMES`.
        preferred_cache: what the target prefers, and a plan may choose otherwise without contradiction.
        capabilities: those of the target's record; None where it is not to be asked what it can do.
    """

    router: Router
    quantizer: Quantizer
    target: Target
    names: dict[str, str]
    sources: tuple[str, ...] = ()
    kv_cache: str = DEFAULT_CACHE
    preferred_cache: str = DEFAULT_CACHE
    capabilities: frozenset[str] | None = None


def compile_bundle(
    checkpoint: Checkpoint,
    parts: BuildParts,
    folder: Path,
    *,
    step: Step | None = None,
    strict: bool = False,
    require_target: bool = False,
) -> Bundle:
    """Compile a model into a bundle at `folder`, which appears only when it is whole.

    With `strict`, a weight that cannot have the scheme that was asked for is an error; with
    `require_target`, work that the target's own unit does not do.
    """
    tell = step or _silent
    check_can_build(parts.target)
    routing = routing_of(parts.router, parts.names["router"], checkpoint)
    check_cache_scheme(parts.kv_cache, checkpoint.config)
    tell("planning", 0, 1)
    plan = parts.quantizer.plan(checkpoint, None, None)
    from gemcore.models.weights import banded

    checkpoint = banded(checkpoint, plan)
    _check_plan(plan, checkpoint, f"quantizer '{parts.names['quantizer']}'")
    cache = cache_scheme(plan, parts.kv_cache, parts.preferred_cache)
    check_cache_scheme(cache, checkpoint.config)
    if strict and plan.skipped:
        name, reason = plan.skipped[0]
        raise UsageError(
            f"{len(plan.skipped)} weights cannot be quantized as asked: {name}, {reason}"
        )
    if parts.capabilities is not None:
        needs = needed_capabilities(
            plan.schemes(), cache, routed=routing is not None, bands=bool(plan.vocabulary_bands)
        )
        check_capabilities(parts.names["target"], parts.capabilities, needs)
    with explained(folder), new_bundle(folder) as (temporary, finish):
        weights, report = parts.quantizer.apply(
            checkpoint, plan, lambda done, total: tell("packing weights", done, total)
        )
        _check_weights(weights, plan, checkpoint, f"quantizer '{parts.names['quantizer']}'")
        from gemcore.formats.safetensors_writer import write_safetensors

        if routing is not None:
            from gemcore.models.routed import routed_weights

            weights = routed_weights(
                weights,
                routing.shape(),
                routing.experts.stacked(),
                routing.modules,
                None if routing.prior is None else routing.prior.module,
            )
        write_safetensors(temporary / WEIGHTS, weights)
        del weights
        _write_text(checkpoint, routing, temporary)
        tell("tracing the model", 0, 1)
        from gemcore.compiler.export import export_decoder

        config = checkpoint.config
        exported = export_decoder(
            config,
            plan.schemes(),
            cache=cache,
            router=() if routing is None else routing.modules,
            experts=None if routing is None else routing.shape(),
            prior=None if routing is None else routing.prior,
        )
        tell("compiling", 0, 1)
        delegation = parts.target.build(exported, config, temporary)
        if require_target:
            refuse_fallback(delegation)
        tell("checking", 0, 1)
        finish(
            Manifest(
                model={
                    "name": checkpoint.name,
                    "identity": checkpoint.identity,
                    "licence": checkpoint.licence,
                },
                config=config,
                router=parts.names["router"],
                quantizer=parts.names["quantizer"],
                target=parts.names["target"],
                target_details=parts.target.describe(),
                plan=plan.schemes(),
                quantization=attrs.asdict(report),
                delegation=delegation.to_json(),
                weights=exported.weights,
                kv_cache=cache,
                experts=() if routing is None else routing.experts.names,
                prior_tokens=0 if routing is None or not routing.prior else routing.prior.longest,
                text=text_entry(checkpoint.text),
                versions={**_own_version(), **current_versions()},
            )
        )
    return open_bundle(folder)


def cached_bundle(
    identity: str,
    load: Callable[[], Checkpoint],
    parts: BuildParts,
    *,
    step: Step | None = None,
    strict: bool = False,
) -> Bundle:
    """The bundle of this model and these parts: out of the user's cache, or compiled into it now.

    `identity` is that of the model; `load` opens it, and is called only where it must be compiled.
    """
    folder = cache_root() / "bundles" / f"{bundle_key(identity, parts)}.gem"
    # First without the lock, which a cache that may only be read cannot give.
    bundle = _sound_bundle(folder)
    if bundle is not None:
        return bundle
    cache_folder("bundles")
    with locked(folder):
        bundle = _sound_bundle(folder)
        return bundle or compile_bundle(load(), parts, folder, step=step, strict=strict)


def _check_plan(plan: Plan, checkpoint: Checkpoint, title: str) -> None:
    """Say whose the mistake is where a plan does not fit the model."""
    from gemcore.models.layout import weight_units
    from gemcore.schemes import SCHEMES, fits

    shapes = {unit.name: unit.shape for unit in weight_units(checkpoint.config)}
    schemes = plan.schemes()
    for name in sorted(shapes.keys() ^ schemes.keys()):
        told = "does not plan" if name in shapes else "plans for the unknown weight"
        raise PluginError(f"{title} {told} {name}")
    for name, scheme in schemes.items():
        obstacle = f"it is none of {', '.join(SCHEMES)}"
        if scheme in SCHEMES:
            obstacle = fits(SCHEMES[scheme], shapes[name]) or ""
        if obstacle:
            raise PluginError(f"{title} plans scheme '{scheme}' for {name}, but {obstacle}")


def _check_weights(weights: Weights, plan: Plan, checkpoint: Checkpoint, title: str) -> None:
    """Say whose the mistake is where a weight is not packed as planned."""
    from gemcore.models.layout import weight_units
    from gemcore.packing import packed_shape
    from gemcore.schemes import get_scheme

    schemes = plan.schemes()
    for unit in weight_units(checkpoint.config):
        scheme, name = get_scheme(schemes[unit.name]), f"{unit.name}.packed"
        if name not in weights:
            raise PluginError(f"{title} gives no weight '{name}'")
        wanted = (packed_shape(scheme, unit.shape), "uint8" if scheme.grouped else "float16")
        found = (tuple(weights[name].shape), str(weights[name].dtype))
        if found != wanted:
            raise PluginError(
                f"{title} gives '{name}' as {found[1]} {list(found[0])}, but {scheme.name} is packed as "
                f"{wanted[1]} {list(wanted[0])}"
            )


def _sound_bundle(folder: Path) -> Bundle | None:
    """The bundle at `folder`; None where there is none, or a damaged one that is to be made again."""
    try:
        return open_bundle(folder)
    except (BundleError, UsageError):
        return None


def bundle_key(identity: str, parts: BuildParts) -> str:
    """Name of a cached bundle: the same content has the same name, anything else another."""
    content = {
        "model": identity,
        "parts": parts.names,
        "routing": routing_content(parts.router),
        "quantization": quantizer_content(parts.quantizer),
        "kv_cache": parts.kv_cache,
        "target": parts.target.describe(),
        "sources": sorted(parts.sources),
        "versions": {**_own_version(), **current_versions(), "code": _code_digest()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def cache_scheme(plan: Plan, asked: str, preferred: str = DEFAULT_CACHE) -> str:
    """The scheme of keys and values: the plan's, where it has one.

    Nobody need have asked for what the target prefers, so the plan may say otherwise.

    Raises:
        UsageError: plan and user want different ones.
    """
    if plan.kv_cache is None:
        return asked
    if asked not in (preferred, plan.kv_cache.scheme):
        raise UsageError(
            f"the plan has keys and values in {plan.kv_cache.scheme}, but the KV cache '{asked}' is asked "
            "for: leave one out"
        )
    return plan.kv_cache.scheme


def quantizer_content(quantizer: Quantizer) -> str:
    """What packed weights depend on beside the quantizer's options; empty for one without it."""
    content = getattr(quantizer, "content", None)
    return "" if content is None else str(content())


def _write_text(checkpoint: Checkpoint, routing: Routing | None, folder: Path) -> None:
    (folder / TOKENIZER).write_text(checkpoint.text.tokenizer_json, encoding="utf-8")
    if checkpoint.text.chat_template is not None:
        (folder / TEMPLATE).write_text(checkpoint.text.chat_template, encoding="utf-8")
    if routing is not None and isinstance(routing.prior, EncoderPrior):
        (folder / ENCODER_TOKENIZER).write_text(routing.prior.tokenizer_json, encoding="utf-8")


def _code_digest() -> str:
    """SHA-256 over the sources that decide what a bundle holds, so that editing them makes a new one."""
    here = Path(__file__).parent
    files = [here / "build.py", here / "packing.py", here / "schemes.py"]
    for folder in ("models", "compiler"):
        files += [p for p in (here / folder).rglob("*") if p.suffix in (".py", ".cc", ".c", ".h")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _own_version() -> dict[str, str]:
    from gemcore import __version__

    return {"gem": __version__}


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def manifest_summary(bundle: Bundle) -> dict[str, Any]:
    """What the report line and the JSON output say of a bundle."""
    manifest = bundle.manifest
    return {
        "model": manifest.model["name"],
        "router": manifest.router,
        "quantizer": manifest.quantizer,
        "target": manifest.target,
        "kv_cache": manifest.kv_cache,
    }
