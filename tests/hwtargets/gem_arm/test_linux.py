"""A model for a Raspberry Pi 4, really executed: emulated, and compared with this machine's own bits."""

from __future__ import annotations

import json
import os
import subprocess

import attrs
import numpy as np
import pytest

from gem_arm.linux import SYSTEM_ROOT, raspberry_pi_4
from gemcore.build import compile_bundle
from gemcore.cli.run import report_line, run_report
from gemcore.errors import GemError
from gemcore.export import export_bundle
from gemcore.plugins import get_host
from gemcore.protocols import Target
from gemcore.reports import DelegationReport
from gemcore.runtime.settings import OpenSettings
from gemcore.schemes import SCHEMES
from gemcore.session import EncodedPrompt, Session
from gemcore.testing.fixed_plan import FixedPlan
from tests.conftest import open_tiny
from tests.vocabulary import plan_of

BOARD = raspberry_pi_4()


def need_emulator() -> None:
    """Skip the test, with the reason, where a tool is missing."""
    ready = BOARD.readiness()
    if reason := ready.build or ready.run:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def bundle(tiny, tiny_parts, tmp_path_factory):
    need_emulator()
    names = {**tiny_parts.names, "target": "rpi4"}
    parts = attrs.evolve(tiny_parts, target=BOARD, names=names)
    return compile_bundle(tiny, parts, tmp_path_factory.mktemp("rpi4") / "tiny.gem")


@pytest.fixture(scope="module")
def session(bundle):
    return Session(bundle, BOARD.emulate(bundle))


def test_what_a_bundle_remembers_is_plain():
    details = BOARD.describe()
    assert json.loads(json.dumps(details)) == details
    assert details["cpu"] == "cortex-a72"
    assert "+dotprod" not in details["tvm_target"]["mattr"]


def test_it_keeps_the_contract_of_targets():
    methods = [name for name in vars(Target) if not name.startswith("_")]
    assert methods
    assert all(callable(getattr(BOARD, name)) for name in methods)


def test_logits_are_those_of_this_machine_bit_by_bit(session, tiny_session):
    tokens = [int(i) for i in np.random.default_rng(0).integers(0, 200, 32)]
    np.testing.assert_array_equal(session.logits(tokens), tiny_session.logits(tokens))
    assert session._executor.execution == "emulated"
    assert session._executor.machine == "qemu-aarch64 -cpu cortex-a72"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_codes_of_every_width_give_the_bits_of_this_machine(tiny, tiny_parts, tmp_path, scheme):
    need_emulator()
    host = get_host()
    parts = attrs.evolve(tiny_parts, quantizer=host.create(host.select("quantizer", scheme)))
    here = Session(
        (bundle := compile_bundle(tiny, parts, tmp_path / "host.gem")),
        parts.target.open(bundle, OpenSettings(threads=1)),
    )
    board = compile_bundle(tiny, attrs.evolve(parts, target=BOARD), tmp_path / "rpi4.gem")
    there = Session(board, BOARD.emulate(board))
    tokens = [int(i) for i in np.random.default_rng(1).integers(0, 200, 9)]
    np.testing.assert_array_equal(there.logits(tokens), here.logits(tokens))
    np.testing.assert_array_equal(there.feed([4]), here.feed([4]))


@pytest.mark.slow
def test_bands_of_the_vocabulary_give_the_bits_of_this_machine(tiny, tiny_parts, tmp_path):
    need_emulator()
    plan = plan_of(tiny.config, ("q8-g32", "q4z-g32", "q3z-g32"))
    parts = attrs.evolve(tiny_parts, quantizer=FixedPlan(plan))
    here = compile_bundle(tiny, parts, tmp_path / "host.gem")
    board = compile_bundle(tiny, attrs.evolve(parts, target=BOARD), tmp_path / "rpi4.gem")
    there = Session(board, BOARD.emulate(board))
    tokens = [0, 31, 32, 95, 96, 269]
    np.testing.assert_array_equal(there.logits(tokens), open_tiny(here).logits(tokens))


def test_an_answer_is_that_of_this_machine(session, tiny_session):
    given = {"max_tokens": 8, "chat": False}
    here = tiny_session.generate("one two three", **given)
    there = session.generate("one two three", **given)
    assert there.token_ids == here.token_ids
    assert there.text == here.text


def test_no_time_of_the_emulator_is_shown_as_one_of_the_device(session, tiny_session):
    answer = session.generate("one two three", max_tokens=2, chat=False)
    report = run_report(session, answer)
    assert (report["execution"], report["machine"]) == (
        "emulated",
        "qemu-aarch64 -cpu cortex-a72",
    )
    assert report["emulator_ttft_ms"] > 0
    assert not {"ttft_ms", "decode_tokens_per_s", "peak_memory_mb"} & set(report)
    line = report_line(report)
    assert "emulated by qemu-aarch64 -cpu cortex-a72" in line
    assert "no speed of the device" in line
    assert "tokens/s" not in line
    native = run_report(tiny_session, tiny_session.generate("one", max_tokens=2, chat=False))
    assert native["execution"] == "native"
    assert "TTFT" in report_line(native)


def test_a_fork_continues_the_text_in_shared_memory(session):
    session.forget()
    session.feed([5, 6, 7])
    other = session.fork()
    expected = session.feed([8]).copy()
    session.feed([9])
    np.testing.assert_array_equal(other.feed([8]), expected)


def test_a_cache_grows(bundle):
    executor = BOARD.emulate(bundle)
    session = Session(bundle, executor)
    small = Session(bundle, executor)
    small._cache = type(small._cache)(small.config, 16, "f16", executor._shared.zeros)
    tokens = [3] * 40
    for token in tokens[:20]:
        small.feed([token])
    np.testing.assert_array_equal(small.feed(tokens[20:]), session.feed(tokens))


def test_the_report_says_that_all_of_it_runs_on_the_processor(bundle):
    report = DelegationReport.from_json(bundle.manifest.delegation)
    assert (report.target, report.unit, report.share()) == ("rpi4", "cortex-a72", 1.0)
    assert report.fallbacks() == ()
    products = next(o for o in report.operations if o.operation == "qlinear")
    assert products.memory_bytes > products.multiply_accumulates / 2


@pytest.mark.slow
def test_instructions_that_the_processor_lacks_end_in_one_sentence(tiny, tiny_parts, tmp_path):
    need_emulator()
    wrong = attrs.evolve(BOARD, cpu="cortex-a76", features=("+dotprod",), kernels="NEON_DOT")
    parts = attrs.evolve(tiny_parts, target=wrong)
    bundle = compile_bundle(tiny, parts, tmp_path / "wrong.gem")
    right = Session(bundle, wrong.emulate(bundle))
    assert np.isfinite(right.feed([1])).all()
    with pytest.raises(
        GemError,
        match=r"^the compiled model met an instruction that qemu-aarch64 -cpu cortex-a72 does not "
        r"have \(SIGILL\): compile it for",
    ):
        Session(bundle, wrong.emulate(bundle, "cortex-a72")).feed([1])
    assert not list(tmp_path.glob("*.core"))


def test_an_exported_folder_runs_without_python(bundle, tiny_session, tmp_path):
    folder = tmp_path / "app"
    report = export_bundle(bundle, BOARD, folder)
    assert {name for name, _ in report.files if "/" not in name} | {"README.md"} == {
        path.name for path in folder.iterdir()
    }
    assert (folder / "model.gem" / "model.so").stat().st_size < 2e6
    prompt = [5, 6, 7, 8]
    emulator = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", SYSTEM_ROOT]
    runner = [str(folder / "gem-runner"), "generate", str(folder / "plan.txt"), "6"]
    words = [*emulator, *runner, *map(str, prompt)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    answer = tiny_session.generate(EncodedPrompt(tuple(prompt)), max_tokens=6)
    assert [int(line) for line in done.stdout.split()] == list(answer.token_ids)
    wrong = subprocess.run([*emulator, *runner, "-1"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.strip().endswith("token -1 is not in the vocabulary")


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    ready = BOARD.readiness()
    assert ready.build == (
        "compiling for target 'rpi4' needs aarch64-linux-gnu-g++, which is not in PATH: "
        "run 'make setup-targets', or install the Debian package g++-aarch64-linux-gnu"
    )
    assert ready.run.startswith("emulation for target 'rpi4' needs qemu-aarch64, which is not in")


def test_a_bundle_of_another_machine_is_refused(tiny_bundle):
    with pytest.raises(GemError, match="was compiled for x86_64, and target 'rpi4' is aarch64"):
        BOARD.emulate(tiny_bundle)


def test_on_an_aarch64_machine_it_runs_in_this_process(monkeypatch, tiny_bundle):
    opened = []
    monkeypatch.setattr("gem_arm.linux.is_aarch64", lambda: True)
    monkeypatch.setattr("gem_arm.linux._flags", lambda: frozenset({"asimd"}))
    monkeypatch.setattr(
        "gemcore.runtime.executor.NativeExecutor", lambda *given: opened.append(given)
    )
    BOARD.open(tiny_bundle, OpenSettings(threads=3))
    assert opened[0][0] == tiny_bundle.folder / "model.so"
    assert opened[0][2] == 3
    assert BOARD.readiness().execution == "native"
    monkeypatch.setattr("gem_arm.linux._flags", frozenset)
    with pytest.raises(GemError, match="this machine lacks asimd: compile the model for another"):
        BOARD.open(tiny_bundle, OpenSettings())
