"""What goes into a study: names of precisions, sizes of models, result files that exist already."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gem_study.records import Measured, ModelSize
from gem_tradeoff.results import read_results
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PART = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^,"]|")+')
_OPTION = re.compile(r"\s*[\w.-]+\s*=")


def split_precisions(text: str) -> tuple[str, ...]:
    """Precisions with commas between them, each as `--quantizer` takes it.

    A part of the form option=value belongs to the precision before it.

    >>> split_precisions("f16, q8-g32,q4a-g32:head=f16,other=2,q4s-g32")
    ('f16', 'q8-g32', 'q4a-g32:head=f16,other=2', 'q4s-g32')
    """
    found: list[str] = []
    for part in _PART.findall(text):
        if found and ":" in found[-1] and _OPTION.match(part):
            found[-1] += f",{part.strip()}"
        elif part.strip():
            found.append(part.strip())
    return tuple(found)


def file_name(precision: str) -> str:
    """A name for a precision's result file: `q4a-g32-head=f16.json`."""
    return re.sub(r"[^\w.=-]+", "-", precision).strip("-.") + ".json"


def read_measured(paths: Sequence[Path], sizes: Sequence[int] = ()) -> tuple[Measured, ...]:
    """Result files that exist already, as parts of a study.

    A file's precision is the quantizer of its recipe, or the file's own name where two are alike.

    Args:
        paths: the reference first.
        sizes: bytes of each model's weights; empty: as the files say.

    Raises:
        UsageError: a file is not there, or there is another number of sizes than of files.
        FormatError: it is no result file.
    """
    if sizes and len(sizes) != len(paths):
        raise UsageError(
            f"--bytes gives {len(sizes)} sizes for {len(paths)} files: give one for each, in their "
            "order"
        )
    results = [read_results(path) for path in paths]
    configs = [result_config(path) for path in paths]
    labels = [_label(path, config) for path, config in zip(paths, configs, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [path.stem for path in paths]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in paths]
    known: Sequence[int | None] = sizes or [None] * len(paths)
    return tuple(
        Measured(label=label, results=result, size=_size(config, given))
        for label, result, config, given in zip(labels, results, configs, known, strict=True)
    )


def result_config(path: Path) -> dict[str, Any]:
    """The settings in a result file that was checked already."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["config"]
    return config


def _label(path: Path, config: dict[str, Any]) -> str:
    recipe = config.get("recipe")
    quantizer = recipe.get("quantizer") if isinstance(recipe, dict) else None
    if not isinstance(quantizer, str) or not quantizer:
        return path.stem
    return "float32" if config.get("engine") == "eager-float32" else quantizer


def _size(config: dict[str, Any], given: int | None) -> ModelSize:
    """As the user says, or as the file says; anything else in its place counts as not said."""
    bits = config.get("bits_per_weight")
    if given is not None:
        return ModelSize(bytes=given)
    return ModelSize(
        bytes=_positive(config.get("weights_bytes"), int),
        bits_per_weight=_positive(bits, int | float),
    )


def _positive(value: Any, kind: Any) -> Any:
    return value if isinstance(value, kind) and not isinstance(value, bool) and value > 0 else None
