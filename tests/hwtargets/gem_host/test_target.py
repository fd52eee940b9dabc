"""The machine at hand as a target: build, open, refuse what is of another machine."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gem_general.none import GeneralPath
from gem_host import processor, target
from gem_host.processor import LEVELS, choose_level
from gem_host.target import LIBRARY, HostTarget, check_instructions
from gem_uniform.quantizer import q8_g32
from gemcore.build import BuildParts, compile_bundle
from gemcore.errors import BundleError, UsageError
from gemcore.models.decoder import causal_placement
from gemcore.protocols import Target
from gemcore.reports import DelegationReport, Readiness
from gemcore.runtime.settings import OpenSettings
from gemcore.runtime.tvm_runtime import usable_cores
from gemcore.testing import tiny_checkpoint, tiny_config

CONFIG = tiny_config(layers=1)


def test_what_a_bundle_remembers_is_plain_and_enough():
    details = HostTarget().describe()
    level = choose_level("auto")
    assert json.loads(json.dumps(details)) == details
    assert details["instructions"] == level.name
    assert details["machine"] == level.machine
    assert HostTarget(level.name).describe() == details


def test_profile_is_of_this_machine_and_claims_no_rates():
    profile = HostTarget().profile()
    assert profile.cores == usable_cores()
    assert profile.memory_bytes.source == "operating system"
    assert profile.bandwidth is profile.int8_rate is profile.fp16_rate is None


def test_build_and_open(tmp_path):
    checkpoint, quantizer = tiny_checkpoint(CONFIG), q8_g32(head="q8-g32")
    parts = BuildParts(
        router=GeneralPath(),
        quantizer=quantizer,
        target=HostTarget(),
        names={"router": "none", "quantizer": "q8-g32", "target": "host"},
    )
    bundle = compile_bundle(checkpoint, parts, tmp_path / "tiny.gem")
    report = DelegationReport.from_json(bundle.manifest.delegation)
    assert LIBRARY in bundle.manifest.files
    assert (report.target, report.unit, report.execution) == (
        "host", choose_level("auto").name, "native"
    )  # fmt: skip
    assert report.share() == 1
    assert report.fallbacks() == ()
    tokens = np.arange(5, dtype=np.int32)
    results = []
    for threads in (None, 1):
        executor = HostTarget().open(bundle, OpenSettings(threads=threads))
        cache = executor.new_cache(CONFIG, "f16")
        placement = causal_placement(0, 5).numpy()
        results.append(executor.forward(tokens, placement, tokens, cache))
    assert (executor.execution, executor.machine) == ("native", "")
    assert results[0].shape == (5, CONFIG.vocabulary_size)
    np.testing.assert_array_equal(*results)


def test_it_is_ready_where_a_compiler_is(monkeypatch):
    assert HostTarget().readiness() == Readiness(execution="native")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    assert "needs a C++ compiler" in HostTarget().readiness().build


def test_a_bundle_of_another_machine_is_refused():
    here = choose_level("auto").machine
    other = next(level for level in LEVELS if level.machine != here)
    with pytest.raises(BundleError, match=f"compiled for {other.name}, .*compile the model here$"):
        check_instructions({"instructions": other.name})


def test_a_bundle_for_flags_that_are_missing_names_them(monkeypatch):
    monkeypatch.setattr(target, "missing_flags", lambda level: ["avx512_vnni", "fma"])
    with pytest.raises(BundleError, match="but this machine lacks avx512_vnni, fma: compile"):
        check_instructions({"instructions": processor.LEVELS[0].name})


@pytest.mark.parametrize("details", [{}, {"instructions": "sse9"}, {"instructions": None}])
def test_unknown_instructions_are_refused(details):
    with pytest.raises(BundleError, match="^the bundle asks for unknown instructions "):
        check_instructions(details)


def test_instructions_that_are_not_here_are_refused_before_compiling():
    here = choose_level("auto").machine
    other = next(level for level in LEVELS if level.machine != here)
    with pytest.raises(UsageError, match=f"instructions={other.name} needs"):
        HostTarget(other.name).describe()


def test_it_keeps_the_contract_of_targets():
    methods = [name for name, member in vars(Target).items()
               if callable(member) and not name.startswith("_")]  # fmt: skip
    assert methods
    assert all(callable(getattr(HostTarget(), name)) for name in methods)
