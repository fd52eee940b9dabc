"""Plans as TOML: written by `gem quantize -o`, edited by hand, read by `hybrid:plan=FILE`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import attrs

from gem_hybrid.cache_precision import cache_bytes
from gem_hybrid.sensitivity import KV_CACHE, packed_bytes
from gemcore.cache import write_atomically
from gemcore.errors import FormatError, UsageError, unknown_name
from gemcore.experts.fingerprint import base_fingerprint
from gemcore.models.cache_layout import check_cache_scheme
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import weight_units
from gemcore.reports import Plan, PlanEntry
from gemcore.schemes import SCHEMES, fits, get_scheme

FORMAT = 1
MOST_BYTES = 4_000_000
_KEYS = {"format": int, "model": str, "fingerprint": str, "quantizer": str, "weights": dict}
_CACHE_KEY = "kv_cache"
_BANDS_KEY = "vocabulary_bands"
_OPTIONAL = (_CACHE_KEY, _BANDS_KEY)


def plan_text(checkpoint: Checkpoint, plan: Plan, notes: tuple[str, ...] = ()) -> str:
    """The plan as TOML; `notes` become comments at the top."""
    lines = [f"# {' '.join(note.split())}" for note in notes]
    lines += [
        f"format = {FORMAT}",
        f"model = {_quoted(checkpoint.name)}",
        f"fingerprint = {_quoted(base_fingerprint(checkpoint))}",
        f"quantizer = {_quoted(plan.quantizer)}",
        *([] if plan.kv_cache is None else [f"{_CACHE_KEY} = {_quoted(plan.kv_cache.scheme)}"]),
        *([f"{_BANDS_KEY} = {list(plan.vocabulary_bands)}"] if plan.vocabulary_bands else []),
        "",
        "[weights]",
    ]
    width = max(len(entry.unit) + len(entry.scheme) for entry in plan.entries)
    for entry in plan.entries:
        padding = " " * (width - len(entry.unit) - len(entry.scheme))
        comment = f"# {entry.bytes} bytes"
        if entry.expected_error is not None:
            comment += f", KL {entry.expected_error:.2e}"
        lines.append(f'"{entry.unit}" = "{entry.scheme}"{padding}  {comment}')
    return "\n".join(lines) + "\n"


def write_plan(path: Path, checkpoint: Checkpoint, plan: Plan, notes: tuple[str, ...] = ()) -> None:
    """Write the plan; the file appears only when it is whole."""
    with write_atomically(path) as file:
        file.write(plan_text(checkpoint, plan, notes).encode())


def read_plan(path: Path, checkpoint: Checkpoint, words: str) -> Plan:
    """Read a plan for a model; `words` are the quantizer's own, as the user typed them.

    Raises:
        UsageError: the file cannot be read, is no plan, is one for another model, names an unknown
            precision, or leaves a weight out.
    """
    content = _read(path)
    _check(path, content)
    if content["fingerprint"] != base_fingerprint(checkpoint):
        raise UsageError(
            f"plan '{path}' was made for another model ('{content['model']}') than "
            f"'{checkpoint.name}': make one with gem quantize {checkpoint.name}"
        )
    bands = _bands(path, content.get(_BANDS_KEY, []))
    try:
        config = attrs.evolve(checkpoint.config, vocabulary_bands=bands)
    except FormatError as error:
        raise UsageError(f"plan '{path}': {error}") from error
    units = {unit.name: unit for unit in weight_units(config)}
    weights = content["weights"]
    for name in weights:
        if name not in units:
            raise UsageError(f"plan '{path}': {unknown_name('weight', name, units)}")
    entries = []
    for name, unit in units.items():
        scheme = weights.get(name)
        if not isinstance(scheme, str):
            raise UsageError(f"plan '{path}' gives no precision for weight '{name}'")
        if scheme not in SCHEMES:
            raise UsageError(f"plan '{path}', {name}: {unknown_name('scheme', scheme, SCHEMES)}")
        obstacle = fits(get_scheme(scheme), unit.shape)
        if obstacle is not None:
            raise UsageError(f"plan '{path}': {name} cannot be {scheme}: {obstacle}")
        size = packed_bytes(unit, get_scheme(scheme))
        entries.append(PlanEntry(unit=name, scheme=scheme, reason="as planned", bytes=size))
    cache = _cache_entry(path, content[_CACHE_KEY], checkpoint) if _CACHE_KEY in content else None
    return Plan(quantizer=words, entries=tuple(entries), kv_cache=cache, vocabulary_bands=bands)


def _bands(path: Path, rows: object) -> tuple[int, ...]:
    if not isinstance(rows, list) or not all(type(row) is int for row in rows):
        raise UsageError(f"plan '{path}': {_BANDS_KEY} must be a list of rows, as [3072, 12288]")
    return tuple(rows)


def _cache_entry(path: Path, scheme: object, checkpoint: Checkpoint) -> PlanEntry:
    try:
        check_cache_scheme(str(scheme), checkpoint.config)
    except UsageError as error:
        raise UsageError(f"plan '{path}': {error}") from error
    size = cache_bytes(checkpoint.config, str(scheme), checkpoint.config.context_length)
    return PlanEntry(unit=KV_CACHE, scheme=str(scheme), reason="as planned", bytes=size)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"'{path}' is no plan: it has {path.stat().st_size} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no such plan: {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read the plan '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the plan '{path}' is not UTF-8 text") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"the plan '{path}' is not valid TOML: {error}") from error


def _check(path: Path, content: dict[str, Any]) -> None:
    for key, kind in _KEYS.items():
        if type(content.get(key)) is not kind:
            raise UsageError(f"'{path}' is no plan: it lacks '{key}', which gem quantize -o writes")
    for key in content:
        if key not in (*_KEYS, *_OPTIONAL):
            raise UsageError(f"plan '{path}': {unknown_name('key', key, (*_KEYS, *_OPTIONAL))}")
    if content["format"] != FORMAT:
        raise UsageError(
            f"plan '{path}' has format {content['format']}, but this GEM reads format {FORMAT}"
        )


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's are, once DEL is escaped, too."""
    text = text.encode("utf-8", "replace").decode()  # a path may hold what is no text
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
