"""Benchmark records from TOML: our own, and any third party's file, without code.

A file is a list of `[[benchmark]]` tables whose keys are the attributes of
`gem_suite.records.Benchmark`; `prompt`, `few_shot`, `entities` and `hub` are tables within it. What
a record does not say of its prompt form is that of its task type.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.defaults import default_fields
from gem_suite.errors import BenchmarkFileError
from gem_suite.records import Benchmark, Entities, FewShot, HubSource, PromptForm
from gem_suite.schema import TASK_TYPES
from gemcore.errors import GemError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MAX_FILE_BYTES = 1_000_000
"""The longest TOML file that is read."""

_TABLES = {"prompt": PromptForm, "few_shot": FewShot, "entities": Entities, "hub": HubSource}


def builtin_benchmarks() -> tuple[Benchmark, ...]:
    """The 47 benchmarks, by domain, in the order of their files."""
    folder = resources.files("gem_suite") / "benchmarks"
    files = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".toml")),
        key=lambda entry: entry.name,
    )
    return tuple(
        benchmark
        for file in files
        for benchmark in parse_benchmarks(file.read_text("utf-8"), file.name)
    )


def read_benchmarks(path: Path) -> tuple[Benchmark, ...]:
    """The records of a TOML file.

    Raises:
        BenchmarkFileError: the file cannot be read, is no TOML, or a record is not right.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise BenchmarkFileError(f"{path} is longer than {MAX_FILE_BYTES} bytes")
        text = content.decode("utf-8")
    except OSError as error:
        raise BenchmarkFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BenchmarkFileError(f"{path} is not UTF-8 text: {error.reason}") from None
    return parse_benchmarks(text, str(path))


def parse_benchmarks(text: str, where: str) -> tuple[Benchmark, ...]:
    """The records of a TOML text; messages call it `where`.

    Raises:
        BenchmarkFileError: it is no TOML, or a record is not right.
    """
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BenchmarkFileError(f"{where} is not TOML: {error}") from None
    entries = tables.pop("benchmark", None)
    if tables or not isinstance(entries, list) or not entries:
        found = f"'{next(iter(tables))}'" if tables else "none"
        raise BenchmarkFileError(
            f"{where} must consist of [[benchmark]] tables and nothing else; it has {found}"
        )
    benchmarks = []
    for place, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        owner = f"{where}, benchmark {place}" + (f" ('{name}')" if name else "")
        try:
            benchmarks.append(make_benchmark(entry))
        except (GemError, TypeError, ValueError) as error:
            raise BenchmarkFileError(f"{owner}: {error}") from None
    return tuple(benchmarks)


def make_benchmark(table: Mapping[str, Any]) -> Benchmark:
    """A record from a table, with the defaults of its task type.

    Raises:
        UsageError, TypeError, ValueError: a key is unknown or missing, or a value is not right.
    """
    if not isinstance(table, dict):
        raise ValueError("it is no table")
    task_type = table.get("task_type")
    if task_type not in TASK_TYPES:
        raise ValueError(f"'task_type' is {task_type!r}, none of {', '.join(TASK_TYPES)}")
    defaults = default_fields(task_type)
    given = {**defaults, **table}
    if "metric" in table and "metrics" not in table:
        given["metrics"] = list(dict.fromkeys([table["metric"], *defaults["metrics"]]))
    given["prompt"] = {**defaults["prompt"], **_table(table.get("prompt", {}), "prompt")}
    if "fillers" in given["prompt"] and not given["prompt"]["fillers"]:
        given["metrics"] = [name for name in given["metrics"] if name != "acc_calibrated"]
    for name, record in _TABLES.items():
        if name in given:
            given[name] = _record(record, _table(given[name], name), name)
    benchmark = _record(Benchmark, given, "a benchmark")
    assert isinstance(benchmark, Benchmark)
    return benchmark


def without_calibration(benchmark: Benchmark) -> Benchmark:
    """The benchmark without content-free prompts; calibrated accuracy becomes plain accuracy."""
    if not benchmark.prompt.fillers:
        return benchmark
    metric = "acc" if benchmark.metric == "acc_calibrated" else benchmark.metric
    metrics = [name for name in benchmark.metrics if name != "acc_calibrated"]
    return attrs.evolve(
        benchmark,
        metric=metric,
        metrics=tuple(dict.fromkeys([metric, *metrics])),
        prompt=attrs.evolve(benchmark.prompt, fillers=()),
    )


def by_name(benchmarks: Iterable[Benchmark]) -> dict[str, Benchmark]:
    """Records by name.

    Raises:
        BenchmarkFileError: two have one name.
    """
    found: dict[str, Benchmark] = {}
    for benchmark in benchmarks:
        if benchmark.name in found:
            raise BenchmarkFileError(
                f"two benchmarks are called '{benchmark.name}': rename one of them"
            )
        found[benchmark.name] = benchmark
    return found


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"'{name}' is {value!r}: it must be a table")
    return value


def _record(record: type, values: Mapping[str, Any], owner: str) -> object:
    fields = attrs.fields_dict(record)
    for key, value in values.items():
        if key not in fields:
            raise unknown_name(f"key of {owner}", key, fields)
        _check_type(key, value, fields[key].type)
    missing = [
        name
        for name, field in fields.items()
        if field.default is attrs.NOTHING and name not in values
    ]
    if missing:
        raise ValueError(f"'{missing[0]}' is missing from {owner}")
    made: object = record(**values)
    return made


def _check_type(key: str, value: Any, annotation: object) -> None:
    """Check what TOML gave against the attribute's annotation, as far as that says."""
    kind = str(annotation)
    if kind == "str" and not isinstance(value, str):
        raise ValueError(f"'{key}' is {value!r}: it must be text")
    if kind == "bool" and not isinstance(value, bool):
        raise ValueError(f"'{key}' is {value!r}: it must be true or false")
    if kind.startswith("float") and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"'{key}' is {value!r}: it must be a number")
    if kind.startswith("tuple") and (
        not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value)
    ):
        raise ValueError(f"'{key}' is {value!r}: it must be a list of texts")
    if kind.startswith("Mapping"):
        _check_mapping(key, _table(value, key), kind)


def _check_mapping(key: str, value: Mapping[str, Any], kind: str) -> None:
    texts = list(value.values()) if kind == "Mapping[str, str]" else []
    if kind.startswith("Mapping[str, Mapping"):
        texts = [text for table in value.values() for text in _table(table, key).values()]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"'{key}' holds {text!r}: it must be text")
