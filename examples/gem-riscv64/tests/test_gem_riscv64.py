"""What GEM asks of every target, and what a RISC-V program under QEMU promises."""

import struct
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from gemcore.errors import BundleError
from gemcore.runtime.settings import OpenSettings
from gemcore.testing import TargetConformance, compiles, skip

from gem_riscv64.target import COMPILER, EMULATOR, FLAGS, NATIVE, RUNNER, RiscvTarget

RISCV = 243
"""The number of the machine in the header of an ELF file."""


class TestRiscvTarget(TargetConformance):
    plugin = "riscv64"

    @compiles
    def test_it_builds_runs_and_exports(self):
        ready = RiscvTarget().readiness()
        if ready.build or ready.run:
            skip(ready.build or ready.run)
        super().test_it_builds_runs_and_exports()

    def _run(self, target, bundle):
        program = (bundle.folder / RUNNER).read_bytes()
        assert program[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", program, 18)[0] == RISCV
        executor = target.open(bundle, OpenSettings())
        assert executor.execution == ready_execution()
        executor.close()
        return super()._run(target, bundle)


def ready_execution():
    return RiscvTarget().readiness().execution


def test_a_bundle_of_another_machine_is_refused(tmp_path):
    manifest = SimpleNamespace(target_details={"machine": "abacus"})
    bundle = SimpleNamespace(manifest=manifest, folder=tmp_path)
    with pytest.raises(BundleError, match="the bundle is for abacus"):
        RiscvTarget().open(bundle, OpenSettings())


def test_what_is_missing_is_said_with_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    ready = RiscvTarget().readiness()
    assert "install the Debian package gcc-riscv64-linux-gnu" in ready.build
    assert ready.execution == "native" or "install the Debian package qemu-user" in ready.run


HALVES = """
#include <stdio.h>
#include <string.h>
float __extendhfsf2(float half);
float __truncsfhf2(float value);
int main(void) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    unsigned boxed = 0xffff0000u | bits;
    float half, value;
    memcpy(&half, &boxed, 4);
    value = __extendhfsf2(half);
    fwrite(&value, 4, 1, stdout);
  }
  float value;
  while (fread(&value, 4, 1, stdin)) {
    float half = __truncsfhf2(value);
    fwrite(&half, 4, 1, stdout);
  }
}
"""


def test_halves_are_those_of_numpy(tmp_path):
    """Every half to float32, and floats of all sizes, ties and limits among them, to halves."""
    ready = RiscvTarget().readiness()
    if ready.build or ready.run:
        pytest.skip(ready.build or ready.run)
    (tmp_path / "main.c").write_text(HALVES)
    program = tmp_path / "halves"
    sources = [tmp_path / "main.c", NATIVE / "halves.c"]
    subprocess.run([COMPILER, *FLAGS, *sources, "-o", program], check=True)
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].astype(np.float32)
    middle = (every[1:] + every[:-1]) / 2
    limits = np.array([65519.996, 65520, 1e30, np.inf, -np.inf, 2**-25, 2**-26, 1e-40], np.float32)
    spread = np.random.default_rng(0).integers(2**32, size=20000, dtype=np.uint64)
    floats = np.concatenate([middle, limits, spread.astype(np.uint32).view(np.float32)])
    words = [program] if ready.execution == "native" else [EMULATOR, program]
    done = subprocess.run(words, input=floats.tobytes(), capture_output=True, check=True)
    with np.errstate(over="ignore", invalid="ignore"):
        extended = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
        rounded = floats.astype(np.float16)
    found = np.frombuffer(done.stdout, np.float32)
    np.testing.assert_array_equal(found[:65536], extended)
    halves = found[65536:].view(np.uint32).astype(np.uint16).view(np.float16)
    np.testing.assert_array_equal(halves, rounded)
