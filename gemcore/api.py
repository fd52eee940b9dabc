"""The library's way in: from a model's name, or a bundle, to a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemcore.build import BuildParts, Step, cached_bundle, compile_bundle
from gemcore.bundle import Bundle, open_bundle
from gemcore.errors import UsageError
from gemcore.models.cache_layout import AUTO_CACHE, DEFAULT_CACHE
from gemcore.models.sources import load_checkpoint, locate_checkpoint
from gemcore.options import PluginChoice
from gemcore.plugins import get_host
from gemcore.recipe import Recipe
from gemcore.records import TargetRecord
from gemcore.runtime.settings import OpenSettings
from gemcore.session import Session
from gemcore.targets import check_can_open, check_no_fallback

if TYPE_CHECKING:
    from gemcore.cache import Progress
    from gemcore.plugins import PluginHost, Selection
    from gemcore.records import PluginRecord
    from gemcore.reports import ExportReport


def load(
    model: str | None = None,
    *,
    recipe: Recipe | None = None,
    threads: int | None = None,
    host: PluginHost | None = None,
    step: Step | None = None,
    download: Progress | None = None,
    strict: bool = False,
    require_target: bool = False,
    rpc: str | None = None,
    **choices: str,
) -> Session:
    """Open a model, compiling it first where it is not in the user's cache yet.

    Args:
        model: a known name, a GGUF file, a Hugging Face folder or a Hub id.
        recipe: what to build; `model` and `choices` change it.
        threads: how many threads compute; by default all cores.
        host: the plugins to choose from; by default all that are installed.
        step: called while the model is compiled.
        download: called with bytes done and bytes in all while the model is fetched.
        strict: a weight that cannot be quantized as asked is an error.
        require_target: work that the target's own unit does not do is an error.
        rpc: `host:port` of a TVM RPC server on the device that is to run it, where the target can be
            reached that way.
        choices: `router`, `quantizer`, `target` and `kv_cache`, as the command line takes them.

    Raises:
        GemError: something does not exist or does not work; the message says what and what to do.
    """
    host = host or get_host()
    wanted = _recipe(recipe, model, choices)
    parts = build_parts(wanted, host)
    settings = OpenSettings(threads=threads or wanted.run.threads, rpc=rpc)
    # What cannot run need not be compiled first.
    check_can_open(host.select("target", wanted.target).record, parts.target, settings)
    identity, open_model = locate_checkpoint(wanted.model, host, download)
    bundle = cached_bundle(identity, open_model, parts, step=step, strict=strict)
    if require_target:
        check_no_fallback(bundle)
    return _session(bundle, host, settings, wanted.run.context_length)


def compile(  # the word that users look for
    model: str | None = None,
    output: Path | str = "model.gem",
    *,
    recipe: Recipe | None = None,
    host: PluginHost | None = None,
    step: Step | None = None,
    download: Progress | None = None,
    strict: bool = False,
    require_target: bool = False,
    **choices: str,
) -> Bundle:
    """Compile a model into a bundle of its own at `output`; the arguments are those of `load`."""
    host = host or get_host()
    wanted = _recipe(recipe, model, choices)
    parts = build_parts(wanted, host)
    checkpoint = load_checkpoint(wanted.model, host, download)
    return compile_bundle(
        checkpoint, parts, Path(output), step=step, strict=strict, require_target=require_target
    )


def open_session(
    bundle: Path | str,
    *,
    threads: int | None = None,
    context_length: int | None = None,
    host: PluginHost | None = None,
    require_target: bool = False,
    rpc: str | None = None,
) -> Session:
    """Open a bundle, after checking every file of it.

    Args:
        bundle: folder of the bundle.
        threads: how many threads compute; by default all cores.
        context_length: the most tokens of prompt and answer; by default what the model allows.
        host: the plugins to choose from; by default all that are installed.
        require_target: as for `load`.
        rpc: as for `load`.

    Raises UsageError when there is none, BundleError when it is damaged or made for other versions or
    another machine.
    """
    settings = OpenSettings(threads=threads, rpc=rpc)
    opened = open_bundle(Path(bundle))
    if require_target:
        check_no_fallback(opened)
    return _session(opened, host or get_host(), settings, context_length)


def export(
    output: Path | str,
    model: str | None = None,
    *,
    bundle: Path | str | None = None,
    recipe: Recipe | None = None,
    host: PluginHost | None = None,
    step: Step | None = None,
    download: Progress | None = None,
    strict: bool = False,
    require_target: bool = False,
    **choices: str,
) -> ExportReport:
    """Write all that an application on a target needs to the folder `output`, with a README.

    Args:
        output: the folder, which must not be there yet.
        bundle: a compiled bundle; without one, the model is compiled as `load` would, or taken from the
            user's cache. The other arguments are those of `load`.

    Raises:
        GemError: something does not exist or does not work; the message says what and what to do.
    """
    from gemcore.export import export_bundle

    host = host or get_host()
    if bundle is not None:
        opened = open_bundle(Path(bundle))
    else:
        wanted = _recipe(recipe, model, choices)
        identity, open_model = locate_checkpoint(wanted.model, host, download)
        parts = build_parts(wanted, host)
        opened = cached_bundle(identity, open_model, parts, step=step, strict=strict)
    if require_target:
        check_no_fallback(opened)
    target = host.create(host.select("target", opened.manifest.target))
    return export_bundle(opened, target, Path(output))


def build_parts(recipe: Recipe, host: PluginHost) -> BuildParts:
    """The plugins that a recipe names, made with its options."""
    parts: dict[str, Any] = {}
    names: dict[str, str] = {}
    sources: list[str] = []
    for kind, choice in (
        ("router", recipe.router),
        ("quantizer", recipe.quantizer),
        ("target", recipe.target),
    ):
        selection = host.select(kind, choice)
        parts[kind] = host.create(selection)
        names[kind] = _words(selection)
        sources.append(selection.origin)
    record = host.select("target", recipe.target).record
    preferred = record.preferred_cache if isinstance(record, TargetRecord) else DEFAULT_CACHE
    return BuildParts(
        **parts,
        names=names,
        sources=tuple(sources),
        kv_cache=preferred if recipe.kv_cache == AUTO_CACHE else recipe.kv_cache,
        preferred_cache=preferred,
        capabilities=record.capabilities,
    )


def _words(selection: Selection[PluginRecord]) -> str:
    """A selection as the user could type it, without the options that are as they would be anyway."""
    defaults = {option.name: option.default for option in selection.record.options}
    changed = {n: v for n, v in selection.options.items() if v != defaults[n]}
    return str(PluginChoice(selection.name, changed))


def _session(
    bundle: Bundle, host: PluginHost, settings: OpenSettings, context: int | None
) -> Session:
    selection = host.select("target", bundle.manifest.target)
    target = host.create(selection)
    check_can_open(selection.record, target, settings)
    return Session(bundle, target.open(bundle, settings), context_length=context)


def _recipe(recipe: Recipe | None, model: str | None, choices: dict[str, str]) -> Recipe:
    unknown = set(choices) - {"router", "quantizer", "target", "kv_cache"}
    if unknown:
        raise UsageError(
            f"unknown argument '{sorted(unknown)[0]}': a build has a router, a quantizer, a target "
            "and a kv_cache"
        )
    return (recipe or Recipe()).with_changes(model=model, **choices)
