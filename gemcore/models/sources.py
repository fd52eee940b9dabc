"""From a name to a checkpoint: asking the model sources in their order."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

import attrs

from gemcore.errors import PluginError, UsageError
from gemcore.records import ModelSourceRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from gemcore.cache import Progress
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.plugins import PluginHost
    from gemcore.protocols import ModelSource


@attrs.frozen(kw_only=True)
class CachedModel:
    """A model that is on this machine already.

    Attributes:
        name: what users type.
        path: a GGUF file or a Hugging Face folder.
        bytes: its size.
        source: name of the source that fetched it.
    """

    name: str
    path: Path
    bytes: int
    source: str


@attrs.frozen(kw_only=True)
class KnownModel:
    """A model that a source can fetch, described before it is there.

    Sources that know this offer it by a method `known() -> Sequence[KnownModel]`; it is optional.

    Attributes:
        name: what users type.
        bytes: size of the model when it is there.
        licence: SPDX name of its licence.
    """

    name: str
    bytes: int
    licence: str


def load_checkpoint(name: str, host: PluginHost, progress: Progress | None = None) -> Checkpoint:
    """Open the model that `name` names, fetching it where it is not on this machine.

    Args:
        name: a known name, a path of a GGUF file or of a Hugging Face folder, or whatever else an
            installed source owns.
        host: knows the sources.
        progress: called with bytes done and bytes in all, when something is fetched.

    Raises:
        UsageError: no source owns the name; the sentence lists the names that would have worked.
        GemError: the model cannot be fetched or read, or is of a kind that GEM cannot run.
    """
    _, source = owning_source(name, host)
    return source.load(name, progress)


def locate_checkpoint(
    name: str, host: PluginHost, progress: Progress | None = None
) -> tuple[str, Callable[[], Checkpoint]]:
    """The identity of a model, and a function that opens it.

    A source whose models are on this machine can say their identity without opening them, by a method
    `identity(name) -> str | None`; it is optional.

    Raises:
        UsageError, GemError: as `load_checkpoint`.
    """
    _, source = owning_source(name, host)
    identity = getattr(source, "identity", lambda name: None)(name)
    if identity is not None:
        return identity, lambda: source.load(name, progress)
    checkpoint = source.load(name, progress)
    return checkpoint.identity, lambda: checkpoint


def owning_source(name: str, host: PluginHost) -> tuple[ModelSourceRecord, ModelSource]:
    """The first source that says that `name` is its own.

    Raises:
        UsageError: there is none.
        PluginError: the source that promises the name cannot be used.
    """
    if not name.strip():
        known = ", ".join(known_names(host)) or "none"
        raise UsageError(f"a model needs a name; known are {known}")
    failures: dict[str, str] = {}
    for record, source in sources(host, failures.__setitem__):
        if _owns(record, source, name, failures.__setitem__):
            return record, source
    for record in host.model_sources():
        if record.name in failures and name in dict(record.models):
            raise PluginError(failures[record.name])
    raise _nobody_owns(name, known_names(host), list(failures.values()))


def sources(
    host: PluginHost, failed: Callable[[str, str], None]
) -> Iterator[tuple[ModelSourceRecord, ModelSource]]:
    """Every source with its record, in the order of asking; each is made when it is reached.

    One that cannot be made is passed over, for others may own the name: `failed` is called with its
    name and the reason.
    """
    selections = host.selections("model source")
    for selection in sorted(selections, key=lambda one: (one.record.order, one.record.name)):
        try:
            source = host.create(selection)
        except (PluginError, UsageError) as error:
            failed(selection.record.name, str(error))
        else:
            yield selection.record, source


def _owns(
    record: ModelSourceRecord, source: ModelSource, name: str, failed: Callable[[str, str], None]
) -> bool:
    try:
        return source.owns(name)
    except Exception as error:
        # A plugin's code: whatever it raises is its own failure, not that of the other sources.
        kind = type(error).__name__
        failed(record.name, f"model source '{record.name}' failed when asked: {kind}: {error}")
        return False


def known_names(host: PluginHost) -> list[str]:
    """The names that sources promise to fetch."""
    return sorted(name for record in host.model_sources() for name, _ in record.models)


def looks_like_path(name: str) -> bool:
    """Whether `name` can only be meant as a path.

    >>> looks_like_path("models/tiny.gguf"), looks_like_path("smollm2-135m")
    (True, False)
    """
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    return (
        name.lower().endswith(".gguf")
        or name.startswith((".", "~"))
        or any(separator in name for separator in separators)
    )


def _nobody_owns(name: str, known: Sequence[str], failures: Sequence[str]) -> UsageError:
    notes = "".join(f"; {failure}" for failure in failures)
    if looks_like_path(name):
        return UsageError(f"no such file: {name}{notes}")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" did you mean '{near[0]}'?" if near else ""
    names = ", ".join(known) or "none"
    return UsageError(
        f"unknown model '{name}':{hint} Known are {names}; the path of a .gguf file or of a "
        f"Hugging Face folder, or a Hub id (OWNER/NAME), work as well{notes}"
    )
