"""What this machine's processor can do."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import attrs

from gemcore.errors import GemError, UsageError


@attrs.frozen(kw_only=True)
class Level:
    """A set of instructions that the kernels are compiled for.

    Attributes:
        name: what users type.
        machine: `platform.machine()` of processors that may have it.
        flags: processor flags, as Linux names them, that it needs.
        target: the TVM target.
        kernels: name of the kernels' `InstructionSet` in `gemcore.compiler.instructions`.
        int8_a_cycle, float32_a_cycle: multiply-accumulates of one instruction of each kind, of which a
            core is taken to begin one a cycle; newer ones begin two.
    """

    name: str
    machine: str
    flags: frozenset[str]
    target: dict[str, Any]
    kernels: str
    int8_a_cycle: int
    float32_a_cycle: int


_X86, _ARM = "x86_64", "aarch64"
_AVX2_FLAGS = frozenset({"avx2", "fma", "f16c", "bmi2"})
_AVX512_FLAGS = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"})

LEVELS = (
    Level(
        name="vnni512",
        machine=_X86,
        flags=_AVX2_FLAGS | _AVX512_FLAGS | {"avx512_vnni"},
        # x86-64-v4 alone would cut 512-bit vectors in two.
        target={"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["+avx512vnni", "-prefer-256-bit"]},
        kernels="VNNI512",
        int8_a_cycle=64,
        float32_a_cycle=16,
    ),
    Level(
        name="avx2",
        machine=_X86,
        flags=_AVX2_FLAGS,
        target={"kind": "llvm", "mcpu": "x86-64-v3"},
        kernels="AVX2",
        int8_a_cycle=32,
        float32_a_cycle=8,
    ),
    Level(
        name="neon-dot",
        machine=_ARM,
        flags=frozenset({"asimd", "asimddp"}),
        target={"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon", "+dotprod"]},
        kernels="NEON_DOT",
        int8_a_cycle=16,
        float32_a_cycle=4,
    ),
    Level(
        name="neon",
        machine=_ARM,
        flags=frozenset({"asimd"}),
        target={"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]},
        kernels="NEON",
        int8_a_cycle=8,
        float32_a_cycle=4,
    ),
    Level(
        name="plain",
        machine=_X86,
        flags=frozenset(),
        target={"kind": "llvm", "mcpu": "x86-64"},
        kernels="PLAIN",
        int8_a_cycle=4,
        float32_a_cycle=4,
    ),
)
"""Best first."""


def processor_flags() -> frozenset[str]:
    """Feature flags of the first processor, as Linux lists them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError as error:
        raise GemError(f"cannot find out what this processor can do: {error}") from error
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def clock_hz() -> float | None:
    """Clock of the first processor as Linux tells it; None where it does not."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            return float(value) * 1e6
    return None


def missing_flags(level: Level) -> list[str]:
    """What this machine lacks for `level`; empty when it can run it."""
    if platform.system() != "Linux" or platform.machine() != level.machine:
        return [f"{level.machine} on Linux (this is {platform.machine()} on {platform.system()})"]
    return sorted(level.flags - processor_flags())


def choose_level(name: str) -> Level:
    """The level called `name`, or for `auto` the best that this machine has.

    Raises UsageError when this machine lacks what the level needs, GemError when it has none of them.
    """
    if name == "auto":
        for level in LEVELS:
            if not missing_flags(level):
                return level
        raise GemError(
            f"target host has no kernels for {platform.machine()} on {platform.system()}: "
            "it knows x86_64 and aarch64 on Linux"
        )
    level = next(level for level in LEVELS if level.name == name)
    lacks = missing_flags(level)
    if lacks:
        raise UsageError(f"instructions={name} needs {', '.join(lacks)}, which this machine lacks")
    return level


def memory_bytes() -> int:
    """Main memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
