"""Reading the result file of `gem eval suite`, with checks on everything that is used later.

What each item scored is turned into two numbers, a numerator and a denominator, so that every score
here is one quotient of sums over items: a mean (denominator 1), bits per byte, or F1 from counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NoReturn

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError, UsageError

Floats = npt.NDArray[np.float64]

MAX_BYTES = 1 << 30
"""A result file that is larger is refused before it is read: the whole suite takes some megabytes."""

BITS_PER_BYTE = "bits_per_byte"
CORPUS = "corpus"
"""Task type of held-out text."""

_REPORTED_TOLERANCE = 1e-6
_KINDS: Mapping[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}


@attrs.frozen(kw_only=True, eq=False)
class Score:
    """A score as a quotient of sums, `sum(numerators) / sum(denominators)`; 0 where that is 0 / 0.

    Attributes:
        numerators, denominators: float64 `[items]`.
    """

    numerators: Floats
    denominators: Floats

    @property
    def value(self) -> float:
        """The score of all items."""
        below = float(self.denominators.sum())
        return float(self.numerators.sum()) / below if below else 0.0


@attrs.frozen(kw_only=True, eq=False)
class Task:
    """What one model did on one benchmark.

    Attributes:
        where: how errors call it.
        metric: the main metric's name.
        chance: what guessing scores; None where there is no such thing.
        settings: what must be the same wherever two results are compared.
        reported: the main metric as the file gives it.
        samples: the items, in ascending order of `doc_id`.
    """

    name: str
    where: str
    domain: str
    task_type: str
    metric: str
    chance: float | None
    higher_is_better: bool
    settings: Mapping[str, Any]
    reported: float
    samples: tuple[Mapping[str, Any], ...] = attrs.field(repr=False)

    @property
    def documents(self) -> tuple[Any, ...]:
        """The `doc_id` of every item, in the order of `samples`."""
        return tuple(sample["doc_id"] for sample in self.samples)


@attrs.frozen(kw_only=True, eq=False)
class ResultFile:
    """A result file that has been checked.

    Attributes:
        name: how messages call it: its path.
        model: name of the model.
        specialised_for: the domain that the file says its model is for, if it says so.
        settings: of the run, what must be the same wherever two results are compared.
    """

    name: str
    model: str
    specialised_for: str | None
    settings: Mapping[str, Any]
    tasks: Mapping[str, Task]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the tasks, in the order of the file."""
        return tuple(dict.fromkeys(task.domain for task in self.tasks.values()))


def read_results(path: Path) -> ResultFile:
    """Read a result file.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        FormatError: it is no result file, or one of its fields is missing or wrong.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FormatError(f"{path} has {size} bytes: a result file has at most {MAX_BYTES}")
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not valid UTF-8: byte {error.start}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise FormatError(f"{path} is no result file: it is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{path} is no result file: {error}") from None
    return parse_results(data, str(path))


def parse_results(data: Any, name: str) -> ResultFile:
    """Check what was read from a result file called `name`; FormatError where it is wrong."""
    if not isinstance(data, dict):
        raise FormatError(f"{name} is no result file: it holds {_kind(data)}, not an object")
    results = _field(name, data, "results", dict)
    configs = _field(name, data, "configs", dict)
    samples = _field(name, data, "samples", dict)
    hashes = _field(name, data, "task_hashes", dict)
    versions = _field(name, data, "versions", dict)
    config = _field(name, data, "config", dict)
    if not results:
        raise FormatError(f"{name} holds no results: run `gem eval suite` over at least one task")
    tasks = {}
    for task in results:
        where = f"{name}, task '{task}'"
        tasks[task] = _parse_task(
            task,
            where,
            _field(where, results, task, dict, "results"),
            _field(where, configs, task, dict, "configs"),
            _field(where, samples, task, list, "samples"),
            {"hash": hashes.get(task), "version": versions.get(task)},
        )
    special = config.get("specialised_for")
    if special is not None and not isinstance(special, str):
        raise FormatError(f"{name}: 'specialised_for' is {_kind(special)}, not a domain's name")
    return ResultFile(
        name=name,
        model=_field(name, config, "model", str, "config"),
        specialised_for=special,
        settings={key: config.get(key) for key in ("limit", "seed", "chat_template")},
        tasks=tasks,
    )


def main_score(task: Task) -> Score:
    """The items' shares of the main metric: bits and bytes, counts of F1, or one number each.

    Raises:
        FormatError: an item lacks them or holds no finite number, or the file's own figure differs.
    """
    if task.metric == BITS_PER_BYTE:
        score = bits_score(task)
    elif "f1" in task.metric and all("counts" in sample for sample in task.samples):
        score = _counts_score(task)
    else:
        values = _column(task, task.metric, task.samples)
        score = Score(numerators=values, denominators=np.ones_like(values))
    if not math.isclose(score.value, task.reported, rel_tol=1e-6, abs_tol=_REPORTED_TOLERANCE):
        raise FormatError(
            f"{task.where}: '{task.metric}' is {task.reported:.6g} in the results, but "
            f"{score.value:.6g} by its items: write the file anew with `gem eval suite`"
        )
    return score


def bits_score(task: Task) -> Score:
    """The bits that the reference of each item takes, and its bytes; FormatError as `main_score`.

    An item that has no reference, such as a sentence without names to find, has neither, and adds 0
    to both sums.
    """
    places = [_present(s, "bits") or _present(s, "bytes") for s in task.samples]
    some = list(compress(task.samples, places))
    bits, sizes = np.zeros(len(places)), np.zeros(len(places))
    bits[places], sizes[places] = _column(task, "bits", some), _column(task, "bytes", some)
    if bits.min() < 0 or sizes.min() < 0 or sizes.sum() <= 0:
        raise FormatError(
            f"{task.where}: bits (least {bits.min():g}) and bytes (least {sizes.min():g}) of the "
            f"items must be at least 0, and the bytes' sum ({sizes.sum():g}) above 0"
        )
    return Score(numerators=bits, denominators=sizes)


def has_bits(task: Task) -> bool:
    """Whether some items have a reference text, whose bits and bytes were recorded."""
    return any(_present(sample, "bits") for sample in task.samples)


def _counts_score(task: Task) -> Score:
    """F1 from counts `[true positives, false positives, false negatives]`, summed over items."""
    rows = [_counts(task, sample) for sample in task.samples]
    right, wrong, missed = np.array(rows, dtype=np.float64).T
    return Score(numerators=2 * right, denominators=2 * right + wrong + missed)


def _counts(task: Task, sample: Mapping[str, Any]) -> list[float]:
    counts = sample["counts"]
    if not isinstance(counts, list) or len(counts) != 3:
        _refuse_item(task, sample, "counts", counts, "three numbers")
    numbers = [_number(count) for count in counts]
    if any(number is None or number < 0 for number in numbers):
        _refuse_item(task, sample, "counts", counts, "three numbers of at least 0")
    return [float(number) for number in numbers if number is not None]


def _column(task: Task, key: str, samples: Sequence[Mapping[str, Any]]) -> Floats:
    values = []
    for sample in samples:
        if not _present(sample, key):
            raise FormatError(
                f"{task.where}, item {sample['doc_id']!r}: '{key}' is missing; the item has "
                f"{', '.join(sorted(sample))}: choose another main metric, or leave the task out "
                f"(--leave-out {task.name})"
            )
        number = _number(sample[key])
        if number is None:
            _refuse_item(task, sample, key, sample[key], "a finite number")
        values.append(number)
    return np.array(values, dtype=np.float64)


def _present(sample: Mapping[str, Any], key: str) -> bool:
    return sample.get(key) is not None


def _refuse_item(
    task: Task, sample: Mapping[str, Any], key: str, value: object, wanted: str
) -> NoReturn:
    shown = repr(value)[:40]
    raise FormatError(f"{task.where}, item {sample['doc_id']!r}: '{key}' is {shown}, not {wanted}")


def _parse_task(
    name: str,
    where: str,
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    samples: Sequence[Any],
    identity: Mapping[str, Any],
) -> Task:
    metric = _field(where, config, "main_metric", str, "configs")
    reported = _number(result.get(f"{metric},none"))
    if reported is None:
        raise FormatError(
            f"{where}: '{metric},none' of the results is {result.get(f'{metric},none')!r}, "
            "not a finite number"
        )
    chance = config.get("chance")
    if chance is not None:
        chance = _number(chance)
        if chance is None or not 0 <= chance < 1:
            raise FormatError(
                f"{where}: 'chance' is {config['chance']!r}, not a number from 0 to below 1"
            )
    return Task(
        name=name,
        where=where,
        domain=_field(where, config, "domain", str, "configs"),
        task_type=_field(where, config, "task_type", str, "configs"),
        metric=metric,
        chance=chance,
        higher_is_better=_field(where, config, "higher_is_better", bool, "configs"),
        settings={
            **identity,
            "num_fewshot": config.get("num_fewshot"),
            "main_metric": metric,
            "chance": chance,
            "domain": config["domain"],
        },
        reported=reported,
        samples=_ordered(where, samples),
    )


def _ordered(where: str, samples: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """The items sorted by `doc_id`, so that two files pair up whatever the order they ran in."""
    if len(samples) < 2:
        raise FormatError(
            f"{where}: intervals need at least 2 items, and there are {len(samples)}: run it with a larger "
            "--limit, or leave it out"
        )
    seen = set()
    for number, sample in enumerate(samples):
        document = sample.get("doc_id") if isinstance(sample, dict) else None
        if isinstance(document, bool) or not isinstance(document, int | str):
            raise FormatError(
                f"{where}: sample {number} has no 'doc_id' that is a number or string"
            )
        if document in seen:
            raise FormatError(f"{where}: two items have the 'doc_id' {document!r}")
        seen.add(document)
    return tuple(sorted(samples, key=lambda s: (isinstance(s["doc_id"], str), s["doc_id"])))


def _field(where: str, holder: Mapping[str, Any], key: str, kind: type, part: str = "") -> Any:
    inside = f" of {part}" if part else ""
    if key not in holder:
        raise FormatError(
            f"{where}: field '{key}'{inside} is missing: is it a file of `gem eval suite`?"
        )
    if not isinstance(holder[key], kind):
        raise FormatError(
            f"{where}: field '{key}'{inside} is {_kind(holder[key])}, not {_KINDS[kind]}"
        )
    return holder[key]


def _number(value: object) -> float | None:
    """A finite number as a float, None for anything else; true and false count as 1 and 0."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "null" if value is None else "a number")


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is no number of JSON")
