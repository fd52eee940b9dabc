"""What becomes of a set's fitted routers when an expert has joined or left it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from gem_experts.cli_options import warn_of_routers
from gemcore.errors import FormatError, GemError, UsageError
from gemcore.experts.library import router_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gemcore.plugins import PluginHost

_MOST_BYTES = 64 * 2**20
_AGAIN = "fit it again with gem experts fit-router"


def read_examples(path: Path) -> tuple[str, ...]:
    """Texts of a domain, from a file with one a line.

    In a file called `.jsonl` each line is a JSON string, or an object with a string `text`.

    Raises:
        UsageError: there is no such file, or no text in it.
        FormatError: it is too large, not UTF-8, or a line is not as it must be.
        GemError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise FormatError(f"{path} has {size} bytes, more than the {_MOST_BYTES} allowed")
        lines = path.read_bytes().decode("utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not valid UTF-8: {error.reason}") from None
    except OSError as error:
        raise GemError(f"cannot read {path}: {error.strerror}") from error
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".jsonl":
        texts = [_json_text(line, f"{path}, line {i}") for i, line in numbered]
    else:
        texts = [line.strip() for _, line in numbered]
    if not texts:
        raise UsageError(f"{path} holds no examples")
    return tuple(texts)


def _json_text(line: str, where: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise FormatError(f"{where}: this is not JSON") from None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise FormatError(f"{where}: neither a text nor an object with a text called 'text'")
    return text


def refit_routers(folder: Path, name: str, texts: Sequence[str] | None, host: PluginHost) -> None:
    """Have the fitted routers of a set learn its new expert, and say which ones cannot.

    A router learns an expert by its method `extend(set_folder, expert_name, texts)`, which writes its
    file anew; those without it must be fitted again.

    Raises:
        GemError: a router that can be extended failed; the expert stays in the set.
    """
    for router in router_files(folder):
        try:
            extend = getattr(host.create(host.select("router", router)), "extend", None)
        except GemError as error:
            warn_of_routers([router], f"{_AGAIN} ({error})")
            continue
        if extend is None:
            warn_of_routers([router], _AGAIN)
        elif texts is None:
            remedy = f"{_AGAIN}, or remove '{name}' and add it with --examples FILE"
            warn_of_routers([router], remedy)
        else:
            _extend(extend, router, folder, name, texts)


def forget_expert(folder: Path, name: str, host: PluginHost) -> None:
    """Have the fitted routers of a set forget an expert that has gone, and say which ones cannot.

    A router forgets an expert by its method `forget(set_folder, expert_name)`, which writes its file anew;
    those without it must be fitted again.

    Raises:
        GemError: a router that can forget failed; the expert is gone from the set.
    """
    for router in router_files(folder):
        try:
            forget = getattr(host.create(host.select("router", router)), "forget", None)
        except GemError as error:
            warn_of_routers([router], f"{_AGAIN} ({error})")
            continue
        if forget is None:
            warn_of_routers([router], _AGAIN)
            continue
        try:
            forget(folder, name)
        except GemError as error:
            raise type(error)(
                f"expert '{name}' was removed, but router '{router}' could not forget it: {error}"
            ) from error
        click.echo(f"router '{router}' has forgotten '{name}'")


def _extend(extend: Any, router: str, folder: Path, name: str, texts: Sequence[str]) -> None:
    try:
        extend(folder, name, texts)
    except GemError as error:
        raise type(error)(
            f"expert '{name}' was added, but router '{router}' could not learn it: {error}"
        ) from error
    count = "1 example" if len(texts) == 1 else f"{len(texts)} examples"
    click.echo(f"router '{router}' has learned '{name}' from {count}")
