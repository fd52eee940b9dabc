"""What this machine's processor can do, and which level is chosen for it."""

from __future__ import annotations

import itertools
import platform
from pathlib import Path

import pytest

from gem_host import processor
from gem_host.processor import LEVELS, choose_level, memory_bytes, missing_flags, processor_flags
from gemcore.errors import GemError, UsageError

BY_NAME = {level.name: level for level in LEVELS}

ARM_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid{more}
CPU implementer\t: 0x41
"""


def pretend(monkeypatch, machine: str, flags: set[str], system: str = "Linux") -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(processor, "processor_flags", lambda: frozenset(flags))


AVX2 = {"avx2", "fma", "f16c", "bmi2"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"}


@pytest.mark.parametrize(
    ("machine", "flags", "best"),
    [
        ("x86_64", AVX512 | {"avx512_vnni"}, "vnni512"),
        ("x86_64", AVX512, "avx2"),
        ("x86_64", AVX512 - {"avx512vl"} | {"avx512_vnni"}, "avx2"),
        ("x86_64", AVX2 - {"fma"}, "plain"),
        ("x86_64", set(), "plain"),
        ("aarch64", {"asimd", "asimddp"}, "neon-dot"),
        ("aarch64", {"asimd"}, "neon"),
    ],
)
def test_auto_takes_the_best_that_is_there(monkeypatch, machine, flags, best):
    pretend(monkeypatch, machine, flags)
    assert choose_level("auto").name == best
    assert choose_level(best) is BY_NAME[best]


@pytest.mark.parametrize(
    ("machine", "system"), [("riscv64", "Linux"), ("x86_64", "Windows"), ("aarch64", "Darwin")]
)
def test_machines_without_kernels_are_named(monkeypatch, machine, system):
    pretend(monkeypatch, machine, set(AVX512), system)
    with pytest.raises(GemError, match=f"no kernels for {machine} on {system}: it knows x86_64"):
        choose_level("auto")


def test_a_level_that_this_machine_lacks_names_the_flags(monkeypatch):
    pretend(monkeypatch, "x86_64", AVX2 - {"fma", "bmi2"})
    with pytest.raises(UsageError, match="^instructions=avx2 needs bmi2, fma, which this machine"):
        choose_level("avx2")
    with pytest.raises(
        UsageError, match=r"^instructions=neon needs aarch64 on Linux \(this is x86"
    ):
        choose_level("neon")


def test_levels_are_sorted_best_first():
    """Whoever has the flags of a better level has those of the next one of the same machine."""
    for machine in ("x86_64", "aarch64"):
        levels = [level for level in LEVELS if level.machine == machine]
        assert len(levels) >= 2
        for better, worse in itertools.pairwise(levels):
            assert worse.flags < better.flags


def test_only_levels_with_a_fused_multiply_add_ask_for_its_flag():
    from gemcore.compiler import instructions

    for level in LEVELS:
        isa = getattr(instructions, level.kernels)
        has_it = "fma" in level.flags or level.machine == "aarch64"
        assert isa.fused_multiply_add == has_it


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (
            ARM_CPUINFO.format(more=" asimddp"),
            {"fp", "asimd", "evtstrm", "crc32", "cpuid", "asimddp"},
        ),
        ("processor : 0\nflags\t\t: fpu avx2\nvmx flags : x\n\nflags : other\n", {"fpu", "avx2"}),
        ("nothing that is known\n", set()),
    ],
)
def test_flags_are_those_of_the_first_processor(monkeypatch, text, flags):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert processor_flags() == flags


def test_a_machine_that_does_not_tell_is_one_sentence(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(GemError, match="^cannot find out what this processor can do: no$"):
        processor_flags()


def test_this_machine_has_a_level_and_memory():
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"no kernels for {platform.machine()} on {platform.system()}")
    assert not missing_flags(choose_level("auto"))
    assert memory_bytes() > 2**28
