"""From parts to command streams: TOSA graphs, checked against NumPy to the bit, and Vela's estimate."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from gem_ethos import tools
from gem_ethos.parts import Part
from gemcore.errors import GemError

ACCELERATOR = "ethos-u85-256"
SYSTEM = "Ethos_U85_SYS_DRAM_Mid"
MEMORY = "Dedicated_Sram_384KB"
BATCH = 8
"""Parts that one start of Arm's tools takes."""


@attrs.frozen(kw_only=True)
class Estimate:
    """What Vela says of a part for one token; nothing was run.

    Attributes:
        cycles: at the accelerator's clock.
        clock_hz: of it, as Vela's system configuration has it.
        multiply_accumulates: of the part.
        weight_bytes: of its weights as Vela encodes them.
        in_scale, out_scale: what one step of its int8 in- and outputs means; the app's to apply.
    """

    cycles: int
    clock_hz: float
    multiply_accumulates: int
    weight_bytes: int
    in_scale: float
    out_scale: float


def compile_parts(parts: Iterable[Part], folder: Path) -> dict[str, Estimate]:
    """Write a command stream for each part to `folder`, `NAME_vela.npz`.

    Every graph is run by Arm's reference model first, whose outputs must be NumPy's to the bit.

    Raises GemError when the tools are missing or fail, and when the reference model gives something else.
    """
    if missing := tools.missing_tools():
        raise GemError(missing)
    python = tools.interpreter()
    assert python is not None
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Estimate] = {}
    for batch in _batches(parts):
        with tempfile.TemporaryDirectory(prefix="gem-ethos-") as place:
            found |= _compile(batch, Path(place), folder, python)
    return found


def _batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """A few at a time: Vela takes long to start, and graphs hold their weights several times over."""
    left = iter(parts)
    while batch := list(islice(left, BATCH)):
        yield batch


def _compile(parts: Sequence[Part], place: Path, folder: Path, python: Path) -> dict[str, Estimate]:
    for part in parts:
        arrays: dict[str, Any] = part.arrays()
        np.savez(place / f"{part.name}.npz", **arrays)
    tools.run(python, [str(tools.GRAPHS), str(place), ACCELERATOR, SYSTEM, MEMORY])
    return {part.name: _taken(part, place, folder) for part in parts}


def _taken(part: Part, place: Path, folder: Path) -> Estimate:
    wanted = part.code(part.sample)
    got = np.load(place / f"{part.name}.out.npy", allow_pickle=False)
    if not np.array_equal(got, wanted):
        most = int(np.abs(got.astype(int) - wanted).max())
        raise GemError(
            f"the TOSA reference model and NumPy differ by up to {most} on {part.name}: "
            "its graph does not say what it should, please report this"
        )
    shutil.move(place / "vela" / f"{part.name}_vela.npz", folder)
    return read_estimate(place / "vela" / f"{part.name}_summary_{SYSTEM}.csv", part)


def read_estimate(path: Path, part: Part) -> Estimate:
    """The summary that Vela writes beside the command stream of a part."""
    with path.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    return Estimate(
        cycles=int(float(row["cycles_total"])),
        clock_hz=float(row["core_clock"]),
        multiply_accumulates=int(float(row["nn_macs"])),
        weight_bytes=int(float(row["total_npu_encoded_weights"])),
        in_scale=part.in_scale,
        out_scale=part.out_scale,
    )
