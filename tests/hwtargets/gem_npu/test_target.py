"""A whole decoder on the emulated Hexagon processor, against the same model on this machine."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest

from gem_npu import counting
from gem_npu.target import HexagonTarget
from gem_npu.toolchain import missing_emulator, missing_linker
from gem_uniform.quantizer import q4a_g32
from gemcore.build import compile_bundle
from gemcore.errors import BundleError
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.testing.fixed_plan import FixedPlan
from tests.conftest import open_tiny
from tests.vocabulary import plan_of

TOKENS = [1, 77, 250, 3, 3, 99, 180, 42, 7, 120, 33, 201, 15]

needs_tools = pytest.mark.skipif(
    bool(missing_linker() or missing_emulator()), reason=missing_linker() or missing_emulator()
)


def npu_parts(parts, **changes):
    names = parts.names | {"target": "npu"}
    return attrs.evolve(parts, target=HexagonTarget(), names=names, **changes)


@pytest.fixture(scope="module")
def wide():
    """A random model whose heads HVX takes."""
    return tiny_checkpoint(tiny_config(heads=2, kv_heads=1, head_dim=64, context_length=64))


@pytest.fixture(scope="module")
def wide_bundles(wide, tiny_parts, tmp_path_factory):
    """That model for this machine and for the emulated one, with a cache of int8."""
    folder = tmp_path_factory.mktemp("npu")
    own = attrs.evolve(tiny_parts, kv_cache="q8", quantizer=q4a_g32(head="q8-g32"))
    here = compile_bundle(wide, own, folder / "host.gem")
    return here, compile_bundle(wide, npu_parts(own), folder / "npu.gem")


@needs_tools
def test_a_decoder_gives_the_same_logits_and_counts_packets(wide_bundles, tmp_path, monkeypatch):
    here, there = wide_bundles
    wanted = open_tiny(here).logits(TOKENS)
    counted = tmp_path / "counts"
    monkeypatch.setenv(counting.VARIABLE, str(counted))
    session = open_tiny(there)
    np.testing.assert_array_equal(session.logits(TOKENS), wanted)
    first = counting.read_counts(counted)
    assert counting.total(first).packets > 10_000
    # The same again takes the same number of packets.
    session.logits(TOKENS)
    again = counting.since(counting.read_counts(counted), first)
    names = {name: counts for name, counts in again.items() if "qlinear" in name}
    assert names
    assert all(counts.vectors for counts in names.values())
    assert all(again[name] == first[name] for name in names)


@needs_tools
def test_the_report_says_what_hvx_does(wide_bundles):
    _, there = wide_bundles
    delegation = there.manifest.delegation
    assert (delegation["unit"], delegation["execution"]) == ("hvx", "emulated")
    units = {entry["operation"]: entry["unit"] for entry in delegation["operations"]}
    assert units["qlinear"] == units["attention_q8"] == "hvx"
    assert units["rms_norm"] == units["silu_mul"] == "scalar"
    assert all(e["reason"] for e in delegation["operations"] if e["unit"] == "scalar")


@needs_tools
@pytest.mark.slow
def test_a_router_runs_there_as_well(tiny, routed_parts, routed_bundle, tmp_path):
    there = compile_bundle(tiny, npu_parts(routed_parts), tmp_path / "npu.gem")
    wanted, found = (
        open_tiny(bundle).generate("one two three", max_tokens=4, chat=False)
        for bundle in (routed_bundle, there)
    )
    assert found.token_ids == wanted.token_ids
    assert len(found.token_ids) > 1
    units = {e["operation"]: e for e in there.manifest.delegation["operations"]}
    assert units["attention"]["unit"] == "scalar"
    assert "float32" in units["attention"]["reason"]


@needs_tools
@pytest.mark.slow
def test_bands_of_the_vocabulary_run_there_as_well(tiny, tiny_parts, tmp_path):
    plan = plan_of(tiny.config, ("q8-g32", "q4a-g32", "q4s-g32"))
    parts = attrs.evolve(tiny_parts, quantizer=FixedPlan(plan))
    here = compile_bundle(tiny, parts, tmp_path / "host.gem")
    there = compile_bundle(tiny, npu_parts(parts), tmp_path / "npu.gem")
    tokens = [0, 31, 32, 95, 96, 269]
    np.testing.assert_array_equal(open_tiny(there).logits(tokens), open_tiny(here).logits(tokens))


def test_what_a_bundle_remembers_is_plain():
    details = HexagonTarget().describe()
    assert json.loads(json.dumps(details)) == details
    assert details["machine"] == "hexagon"


def test_a_bundle_of_another_machine_is_refused(tiny_bundle):
    from gemcore.runtime.settings import OpenSettings

    with pytest.raises(BundleError, match="and target 'npu' is hexagon: compile the model again$"):
        HexagonTarget().open(tiny_bundle, OpenSettings())


def test_missing_tools_are_one_sentence(monkeypatch):
    from gem_npu import toolchain

    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    readiness = HexagonTarget().readiness()
    assert readiness.execution == "emulated"
    assert "ziglang, which is not installed: run 'make setup-targets'" in readiness.build
    assert "needs qemu-hexagon, which is not in PATH: run 'make setup-targets'" in readiness.run
