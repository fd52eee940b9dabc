"""Compiling for Ethos-U with Arm's tools, and what is said where they or the device are missing."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest

from gem_ethos import tools
from gem_ethos.target import ESTIMATES, STREAMS, EthosTarget
from gemcore.build import compile_bundle
from gemcore.errors import GemError
from gemcore.runtime.settings import OpenSettings

needs_tools = pytest.mark.skipif(bool(tools.missing_tools()), reason=tools.missing_tools())


@pytest.fixture(scope="module")
def bundle(tiny, tiny_parts, tmp_path_factory):
    parts = attrs.evolve(
        tiny_parts, target=EthosTarget(), names=tiny_parts.names | {"target": "ethos-u85"}
    )
    return compile_bundle(tiny, parts, tmp_path_factory.mktemp("ethos") / "tiny.gem")


@needs_tools
def test_every_part_is_compiled_and_estimated(bundle, tiny):
    # Building compares the reference model with NumPy, and fails where they differ by a bit.
    folder = bundle.folder / STREAMS
    estimates = json.loads((folder / ESTIMATES).read_text())
    assert len(estimates) == 3 * tiny.config.layers + 1
    for name, estimate in estimates.items():
        assert estimate["cycles"] > 0
        stream = np.load(folder / f"{name}_vela.npz", allow_pickle=False)
        assert stream["cmd_data"].nbytes
    hidden, inner = tiny.config.hidden_size, tiny.config.intermediate_size
    work = estimates["layers.0.feed_forward"]["multiply_accumulates"]
    assert work >= 3 * hidden * inner
    report = bundle.manifest.delegation
    assert report["execution"] == "predicted"
    assert any("Predicted, not measured: Vela estimates" in text for text in report["unverified"])
    units = {entry["operation"]: entry for entry in report["operations"]}
    assert units["qlinear"]["unit"] == "ethos-u85"
    assert units["attention"]["unit"] == "cpu"
    assert units["attention"]["reason"]


@needs_tools
def test_export_says_what_was_checked_and_what_was_not(bundle, tmp_path):
    report = EthosTarget().export(bundle, tmp_path)
    assert {name for name, _ in report.files} <= {path.name for path in tmp_path.iterdir()}
    assert any("to the bit" in text for text in report.verified)
    assert any("No command stream was executed" in text for text in report.unverified)


def test_it_is_not_run_here(tiny_bundle):
    with pytest.raises(GemError, match="^target 'ethos-u85' cannot be executed here: "):
        EthosTarget().open(tiny_bundle, OpenSettings())
    assert "cannot be executed here" in EthosTarget().readiness().run


def test_missing_tools_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv(tools.VARIABLE, str(tmp_path / "python"))
    assert "which is not there: run 'make setup-targets'" in EthosTarget().readiness().build


def test_a_graph_that_says_something_else_is_an_error(monkeypatch, tmp_path):
    from gem_ethos import vela
    from gem_ethos.arithmetic import make_linear
    from gem_ethos.parts import Part

    part = Part(
        name="part",
        code=make_linear(np.eye(4, dtype=np.float32), 1.0, 1.0),
        sample=np.ones((1, 4), np.int8),
        in_scale=1.0,
        out_scale=1.0,
    )

    def other_integers(python, words):
        np.save(f"{words[1]}/part.out.npy", part.code(part.sample) + np.int8(2))

    monkeypatch.setattr(vela.tools, "run", other_integers)
    monkeypatch.setattr(vela.tools, "missing_tools", lambda: "")
    monkeypatch.setattr(vela.tools, "interpreter", lambda: tmp_path)
    with pytest.raises(GemError, match="differ by up to 2 on part"):
        vela.compile_parts([part], tmp_path)
