"""Benchmark data in folders: finding it, and records for folders that no record names.

The layout is `DIR/<domain>/<benchmark>/` with `test.jsonl`, `train.jsonl` and `SOURCE.json`, and
`DIR/<domain>/corpus.heldout.txt` for the domain's held-out text.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.catalog import make_benchmark
from gem_suite.errors import DataError
from gem_suite.lines import MAX_LINE_BYTES, read_documents, read_lines
from gem_suite.records import METRICS
from gem_suite.schema import CORPUS, Document
from gemcore.errors import FormatError, GemError, UsageError
from gemcore.formats.json_file import parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gem_suite.records import Benchmark

DATA_VARIABLE = "GEM_DATA"
"""The environment variable that names the data folder."""

CORPUS_FILE = "corpus.heldout.txt"
PIECE_CHARACTERS = 2000
"""A piece of a corpus is a paragraph, or at most so many characters of a long one."""

_MAX_SOURCE_BYTES = 1_000_000
_BREAKS = (
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?\u3002\uff01\uff1f\u0964])\s*"),
    re.compile(r"\s"),
)


@attrs.frozen(kw_only=True)
class Folder:
    """Where one benchmark's data lies.

    Attributes:
        name: of the benchmark.
        domain: the folder above it.
        path: the benchmark's folder; of a corpus, its file.
    """

    name: str
    domain: str
    path: Path

    @property
    def is_corpus(self) -> bool:
        """Whether this is a domain's held-out text."""
        return self.path.name == CORPUS_FILE

    @property
    def test(self) -> Path:
        """The file of test items."""
        return self.path if self.is_corpus else self.path / "test.jsonl"

    @property
    def train(self) -> Path:
        """The file of examples."""
        return self.path / "train.jsonl"


def stated_licence(folder: Folder) -> str:
    """The licence that a benchmark's SOURCE.json states; `none stated` where it does not.

    Raises:
        DataError: the file cannot be read.
    """
    path = folder.path / "SOURCE.json"
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    licence = found.get("license") if isinstance(found, dict) else None
    return licence.strip() if isinstance(licence, str) and licence.strip() else "none stated"


def data_folder(given: Path | None) -> Path:
    """The data folder: as given, or from the environment.

    Raises:
        UsageError: neither says, or there is no such folder.
    """
    named = os.environ.get(DATA_VARIABLE)
    folder = given or (Path(named) if named else None)
    if folder is None:
        raise UsageError(
            f"no benchmark data: name its folder with --data DIR or {DATA_VARIABLE}, or use --hub"
        )
    if not folder.is_dir():
        raise UsageError(f"the benchmark data folder {folder} does not exist")
    return folder


def find_folders(root: Path) -> dict[str, Folder]:
    """Every benchmark and corpus below `root`, by name, in alphabetical order of domain and name.

    Raises:
        DataError: two folders have one name.
    """
    found: dict[str, Folder] = {}
    for domain in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        folders = [
            Folder(name=entry.name, domain=domain.name, path=entry)
            for entry in sorted(domain.iterdir())
            if entry.is_dir() and not entry.name.startswith((".", "_"))
        ]
        corpus = domain / CORPUS_FILE
        if corpus.is_file():
            folders.append(Folder(name=f"corpus_{domain.name}", domain=domain.name, path=corpus))
        for folder in folders:
            if folder.name in found:
                raise DataError(
                    f"two data folders are called '{folder.name}': {found[folder.name].path} and "
                    f"{folder.path}; rename one"
                )
            found[folder.name] = folder
    return found


def folder_benchmark(folder: Folder) -> Benchmark:
    """A record for a folder that none names, from its SOURCE.json and its task type's defaults.

    Raises:
        DataError: SOURCE.json is missing, malformed, or names no known task type.
    """
    if folder.is_corpus:
        return corpus_benchmark(folder)
    path = folder.path / "SOURCE.json"
    source = _read_source(path)
    table: dict[str, Any] = {
        "name": folder.name,
        "title": str(source.get("name") or folder.name),
        "domain": folder.domain,
        "task_type": source.get("task_type"),
        "licence": str(source.get("license") or "not stated"),
    }
    metric = source.get("metric")
    if metric in METRICS:
        table["metric"] = metric
    labels = source.get("labels")
    if labels is not None:
        table["prompt"] = {"labels": labels}
    try:
        return make_benchmark(table)
    except (GemError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None


def corpus_benchmark(folder: Folder) -> Benchmark:
    """The record of a domain's held-out text."""
    return make_benchmark(
        {
            "name": folder.name,
            "title": f"Held-out text of the domain {folder.domain}",
            "domain": folder.domain,
            "task_type": CORPUS,
            "licence": "as the domain's benchmarks",
        }
    )


def folder_documents(folder: Folder, benchmark: Benchmark) -> Iterator[Document]:
    """The test items of a folder, lazily.

    Raises:
        DataError: file and line of the first thing that is wrong.
    """
    if folder.is_corpus:
        yield from corpus_documents(folder.path, folder.name)
    else:
        yield from read_documents(folder.test, benchmark.task_type)


def corpus_documents(path: Path, name: str) -> Iterator[Document]:
    """The pieces of a text file: its paragraphs, long ones cut where a line or sentence ends."""
    index = 0
    for paragraph in _paragraphs(path):
        for piece in cut(paragraph):
            yield Document(
                index=index, id=f"{name}-{index:04d}", task_type=CORPUS, answer="", text=piece
            )
            index += 1
    if index == 0:
        raise DataError(f"{path} is empty")


def cut(text: str, most: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut a text into pieces of at most `most` characters, which joined give the text again.

    A cut is made after the last line end that fits, or else after a sentence, or else a space.
    """
    while len(text) > most:
        place = next(filter(None, (_last_break(text[:most], pattern) for pattern in _BREAKS)), most)
        yield text[:place]
        text = text[place:]
    if text:
        yield text


def _last_break(text: str, pattern: re.Pattern[str]) -> int:
    ends = [match.end() for match in pattern.finditer(text)]
    return ends[-1] if ends else 0


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    last = 0
    for number, line in read_lines(path, MAX_LINE_BYTES):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{path}, line {number}: it is not UTF-8 text") from None
        if lines and number > last + 1:
            yield "\n".join(lines)
            lines = []
        lines.append(text)
        last = number
    if lines:
        yield "\n".join(lines)


def _read_source(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SOURCE_BYTES + 1)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: a folder that no benchmark record names needs one, with "
            "'task_type', 'metric' and 'license'"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > _MAX_SOURCE_BYTES:
        raise DataError(f"{path} is longer than {_MAX_SOURCE_BYTES} bytes")
    try:
        return parse_object(content, str(path))
    except FormatError as error:
        raise DataError(str(error)) from None
