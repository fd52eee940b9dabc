"""Data sets of the Hugging Face Hub, converted to the schema of the data folders.

A column specification is
- text: a column's name, with dots into nested ones (`"choices.text"`);
- a list of such names, of which each gives one entry;
- a table: `{column = …}` with any of `labels` (a column, or a list, in which the value is looked up
  to give an index), `offset` (added to an index), `join` (text between the entries of a list), or
  `{value = …}`, the same for all rows.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gem_suite.errors import DataError, TaskError
from gem_suite.schema import parse_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gem_suite.records import Benchmark, HubSource
    from gem_suite.schema import Document


def hub_documents(benchmark: Benchmark, *, train: bool = False) -> tuple[Document, ...]:
    """Fetch a benchmark's items, of its test split or of the split for examples.

    Raises:
        TaskError: the benchmark is not on the Hub, `datasets` is not installed, or the Hub does not
            give the data set.
        DataError: a row does not fit.
    """
    hub = benchmark.hub
    split = None if hub is None else (hub.train_split if train else hub.split)
    if hub is None or not split:
        what = "examples" if train else "a data set"
        raise TaskError(
            f"task '{benchmark.name}' has no {what} on the Hub that GEM can convert: read it from "
            "a folder with --data DIR"
        )
    rows = (
        (config, row)
        for config in hub.configs or ("",)
        for row in _load(benchmark.name, hub.dataset, config, split)
    )
    return tuple(convert_rows(benchmark, rows))


def convert_rows(
    benchmark: Benchmark, rows: Iterable[tuple[str, Mapping[str, Any]]]
) -> Iterator[Document]:
    """Rows of a data set, each with its configuration's name, as checked items."""
    hub = benchmark.hub
    if hub is None:
        raise TaskError(f"task '{benchmark.name}' has no data set on the Hub")
    for index, (config, row) in enumerate(rows):
        where = f"{hub.dataset}{f' ({config})' if config else ''}, row {index}"
        values = _convert(hub, row, where)
        values.setdefault("id", f"{benchmark.name}-{index:05d}")
        values["task_type"] = benchmark.task_type
        if hub.config_field:
            values[hub.config_field] = config
        yield parse_document(values, where, index)


def _load(name: str, dataset: str, config: str, split: str) -> Iterable[Mapping[str, Any]]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise TaskError(
            f"task '{name}' is to come from the Hub, which needs the package 'datasets': install "
            "it with pip install 'gemcore[suite]', or use --data DIR"
        ) from None
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            dataset, config or None, split=split
        )
    except Exception as error:
        # Whatever the library raises, it concerns this task alone.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TaskError(f"task '{name}': cannot load '{dataset}' from the Hub: {reason}") from error
    return rows


def _convert(hub: HubSource, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field, specification in hub.columns.items():
        try:
            values[field] = _cell(row, specification)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{where}: '{field}' cannot be made from {specification!r}: {error}; the data set "
                f"has the columns {', '.join(sorted(row))}"
            ) from None
    return values


def _cell(row: Mapping[str, Any], specification: Any) -> Any:
    if isinstance(specification, str):
        return _lookup(row, specification)
    if isinstance(specification, list):
        return [_lookup(row, name) for name in specification]
    if "value" in specification:
        return specification["value"]
    value = _cell(row, specification["column"])
    labels = specification.get("labels")
    if labels is not None:
        options = labels if isinstance(labels, list) else list(_lookup(row, labels))
        value = options.index(value.strip() if isinstance(value, str) else value)
    if "offset" in specification:
        value = int(value) + specification["offset"]
    if "join" in specification:
        value = specification["join"].join(value)
    return value


def _lookup(row: Any, path: str) -> Any:
    """Follow names with dots; a list of mappings gives the list of their entries."""
    value = row
    for name in path.split("."):
        value = [entry[name] for entry in value] if isinstance(value, list) else value[name]
    return value
