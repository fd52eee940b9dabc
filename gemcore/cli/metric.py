"""`gem eval metric`: a metric of a plugin, computed from recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from gemcore.errors import GemError, UsageError
from gemcore.plugins import get_host

if TYPE_CHECKING:
    from gemcore.reports import MetricResult

LARGEST_FILE = 2**30
"""Bytes of the largest file of results that is read."""


@click.command()
@click.argument("name")
@click.argument("results", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def metric(name: str, results: tuple[str, ...], *, as_json: bool) -> None:
    """Compute the metric NAME, with options after a colon, from RESULTS.

    RESULTS are words KEY=VALUE, where VALUE is a .json file, JSON itself, or else a text; or the path of
    a .json file that holds all keys. gem plugins show NAME says which keys the metric needs.
    """
    values: dict[str, Any] = {}
    for word in results:
        for key, value in _read(word).items():
            if key in values:
                raise UsageError(f"'{key}' is given twice")
            values[key] = value
    host = get_host()
    selection = host.select("metric", name)
    computed = _compute(host.create(selection), values, f"metric '{selection.name}'")
    if as_json:
        click.echo(json.dumps({"metric": selection.words, **attrs.asdict(computed)}, indent=2))
        return
    interval = ""
    if computed.low is not None and computed.high is not None:
        interval = f"   [{computed.low:.6g}, {computed.high:.6g}]"
    better = "higher" if computed.higher_is_better else "lower"
    click.echo(f"{selection.words} {computed.value:.6g}{interval}   ({better} is better)")


def _compute(plugin: Any, values: dict[str, Any], title: str) -> MetricResult:
    from gemcore.errors import PluginError
    from gemcore.loading import Caught, one_sentence
    from gemcore.reports import MetricResult

    try:
        computed = plugin.compute(values)
    except GemError:
        raise
    except Caught as error:
        raise PluginError(f"{title} failed: {one_sentence(error)}") from error
    if not isinstance(computed, MetricResult):
        raise PluginError(f"{title} gives {type(computed).__name__}, not a MetricResult")
    return computed


def _read(word: str) -> dict[str, Any]:
    """One word of the command line: `KEY=VALUE`, or a file of several."""
    key, equals, value = word.partition("=")
    if equals and key.strip():
        if value.endswith(".json"):
            return {key: _read_file(Path(value))}
        try:
            return {key: json.loads(value)}
        except ValueError:
            return {key: value}
    if not word.endswith(".json"):
        raise UsageError(f"'{word}' is neither KEY=VALUE nor a .json file")
    content = _read_file(Path(word))
    if not isinstance(content, dict):
        raise UsageError(f"{word} holds no JSON object with the names of results")
    return content


def _read_file(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{path} is larger than {LARGEST_FILE} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
