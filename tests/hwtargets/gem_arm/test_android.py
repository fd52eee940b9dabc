"""Libraries for Android phones, loaded by a Linux program on an emulator of the phone's processor."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import attrs
import numpy as np
import pytest

from gem_arm.android import LIBRARY, PAGE, RUNNER, UNVERIFIED, pixel_6
from gemcore.api import open_session
from gemcore.build import compile_bundle
from gemcore.errors import BundleError, GemError
from gemcore.export import export_bundle
from gemcore.models.decoder import causal_placement
from gemcore.reports import DelegationReport
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.plan import PLAN, bundle_plan
from gemcore.runtime.settings import OpenSettings

LARGEST = 2 * 2**20  # bytes of a library


def tool(name: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} in PATH")
    return name


@pytest.fixture(scope="module")
def phone():
    readiness = pixel_6().readiness()
    if readiness.build or readiness.run:
        pytest.skip(readiness.build or readiness.run)
    return pixel_6()


@pytest.fixture(scope="module")
def phone_bundle(phone, routed_parts, tiny, tmp_path_factory):
    """The tiny model with experts and a router at each layer."""
    names = routed_parts.names | {"target": "pixel6"}
    parts = attrs.evolve(routed_parts, target=phone, names=names)
    return compile_bundle(tiny, parts, tmp_path_factory.mktemp("bundles") / "pixel6.gem")


@pytest.fixture(scope="module")
def emulated(phone, phone_bundle):
    executor = phone.open(phone_bundle, OpenSettings())
    yield executor
    executor.close()


def placed(start, count):
    return causal_placement(start, count).numpy()


def test_logits_prior_and_routes_are_the_hosts_bit_by_bit(tiny, routed_bundle, emulated):
    host = open_session(routed_bundle.folder)._executor
    tokens = np.random.default_rng(0).integers(0, 270, 37, np.int32)
    prior = host.prior(tokens[:4], placed(0, 4), KVCache(tiny.config))
    ours = emulated.prior(tokens[:4], placed(0, 4), emulated.new_cache(tiny.config, "f16"))
    np.testing.assert_array_equal(ours, prior)
    priors, rows = np.repeat(prior[None], 37, 0), np.arange(29, dtype=np.int32)
    caches = KVCache(tiny.config), emulated.new_cache(tiny.config, "f16")
    results = [
        executor.forward(tokens[:29], placed(0, 29), rows, cache, priors[:29])
        for executor, cache in zip((host, emulated), caches, strict=True)
    ]
    assert np.ptp(results[0]) > 0.5
    np.testing.assert_array_equal(*results)
    for step in range(29, 37):
        results = [
            executor.forward(
                tokens[step : step + 1], placed(step, 1), np.zeros(1, np.int32), cache, prior[None]
            )
            for executor, cache in zip((host, emulated), caches, strict=True)
        ]
        np.testing.assert_array_equal(*results)
    routes = [
        executor.routes(tokens, placed(0, 37), priors, cache)
        for executor, cache in zip((host, emulated), caches, strict=True)
    ]
    assert routes[0].any()
    np.testing.assert_array_equal(*routes)


def test_the_runner_alone_answers_like_the_host(phone, phone_bundle, routed_bundle, tmp_path):
    prompt = "abc"
    host = open_session(routed_bundle.folder).generate(prompt, max_tokens=8, chat=False)
    ids = phone_bundle.tokenizer().encode_prompt(prompt)
    plan = tmp_path / PLAN
    paths = [str(phone_bundle.folder / name) for name in (LIBRARY, "weights.safetensors")]
    plan.write_text(bundle_plan(phone_bundle, *paths, 1))
    words = ["qemu-aarch64", "-cpu", phone.cpu, "-L", "/usr/aarch64-linux-gnu"]
    words += [str(phone_bundle.folder / RUNNER), "generate", str(plan), "8", *map(str, ids)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert list(map(int, said.split()))[: len(host.token_ids)] == list(host.token_ids)


def test_the_library_needs_nothing_and_shows_its_interface_alone(phone_bundle):
    readelf, library = tool("llvm-readelf-19"), str(phone_bundle.folder / LIBRARY)

    def read(*options: str) -> str:
        return subprocess.run(
            [readelf, *options, library], capture_output=True, text=True, check=True
        ).stdout

    dynamic, segments, symbols = read("-d"), read("-lW"), read("--dyn-syms", "-W")
    assert "NEEDED" not in dynamic
    assert "TEXTREL" not in dynamic
    assert f"[{LIBRARY}]" in dynamic
    loaded = [line.split()[-1] for line in segments.splitlines() if line.split()[:1] == ["LOAD"]]
    assert len(loaded) >= 2
    assert {int(alignment, 16) for alignment in loaded} == {PAGE}
    assert not any(line.split()[:1] == ["TLS"] for line in segments.splitlines())
    table = [line.split() for line in symbols.splitlines() if re.match(r"\s*\d+:", line)][1:]
    header = (phone_bundle.folder / "gem.h").read_text()
    declared = set(re.findall(r"GEM_API [^;(]*?\b(gem_\w+)\(", header))
    assert {row[-1] for row in table} == declared
    assert "UND" not in {row[-2] for row in table}
    assert (phone_bundle.folder / LIBRARY).stat().st_size < LARGEST


def test_a_processor_without_dot_products_stops_with_a_sentence(phone, phone_bundle, tiny):
    executor = phone.emulate(phone_bundle, cpu="cortex-a72")
    tokens = np.zeros(1, np.int32)
    with pytest.raises(GemError, match=r"instruction that qemu-aarch64 -cpu cortex-a72 .*SIGILL"):
        executor.forward(
            tokens, placed(0, 1), tokens, executor.new_cache(tiny.config, "f16"),
            np.zeros((1, 3), np.float32),
        )  # fmt: skip


def test_a_mistake_in_a_pass_is_told_in_a_sentence(emulated, tiny):
    tokens = np.array([270], np.int32)
    cache = emulated.new_cache(tiny.config, "f16")
    with pytest.raises(GemError, match="there is no token 270: the vocabulary has 270"):
        emulated.forward(
            tokens, placed(0, 1), np.zeros(1, np.int32), cache, np.zeros((1, 3), np.float32)
        )


def test_the_report_says_what_was_not_checked(phone_bundle):
    report = DelegationReport.from_json(phone_bundle.manifest.delegation)
    assert (report.target, report.unit, report.execution) == ("pixel6", "cortex-a76", "emulated")
    assert report.share() == 1
    assert report.unverified == UNVERIFIED


def test_an_export_is_all_that_an_app_needs(phone, phone_bundle, tmp_path):
    folder = tmp_path / "app"
    report = export_bundle(phone_bundle, phone, folder)
    for name, _ in report.files:
        assert (folder / name).is_file()
    text = (folder / "README.md").read_text()
    assert "target_link_libraries" in text
    assert "{" not in re.sub(r"```.*?```", "", text, flags=re.S).replace("${", "")
    words = ["qemu-aarch64", "-cpu", phone.cpu, "-L", "/usr/aarch64-linux-gnu"]
    words += [str(folder / RUNNER), "generate", PLAN, "3", "1", "2", "3"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 3


def test_a_bundle_for_another_machine_is_refused(phone, phone_bundle):
    manifest = attrs.evolve(phone_bundle.manifest, target_details={"machine": "x86_64"})
    with pytest.raises(
        BundleError, match="was compiled for x86_64, and target 'pixel6' is aarch64-"
    ):
        phone.open(attrs.evolve(phone_bundle, manifest=manifest), OpenSettings())


def test_tools_that_are_missing_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    readiness = pixel_6().readiness()
    assert readiness.execution == "emulated"
    assert "clang-19, ld.lld-19, aarch64-linux-gnu-gcc, which are not in PATH" in readiness.build
    assert "needs qemu-aarch64, which is not in PATH: run 'make setup-targets'" in readiness.run


def test_what_a_bundle_remembers_is_plain(tmp_path):
    details = pixel_6().describe()
    assert json.loads(json.dumps(details)) == details
    assert details["tvm_target"]["mtriple"] == "aarch64-linux-android31"
    assert "+dotprod" in details["tvm_target"]["mattr"]


@pytest.mark.slow
@pytest.mark.parametrize("router", ["none", "scar"])
def test_the_whole_default_model(phone, router, default_model_path, tmp_path):
    """32 tokens and the next 8, greedily, on the emulator and on this machine."""
    from gemcore.api import load

    host = load(str(default_model_path), router=router)
    session = load(str(default_model_path), router=router, target="pixel6")
    assert (session.bundle.folder / LIBRARY).stat().st_size < LARGEST
    config = host.config
    tokens = np.array(host.encode_prompt("Once upon a time " * 20, chat=False)[:32], np.int32)
    pair = (host._executor, session._executor)
    caches = KVCache(config), pair[1].new_cache(config, "f16")
    prior = None
    if router == "scar":
        said = [e.prior(tokens, placed(0, 32), c) for e, c in zip(pair, caches, strict=True)]
        np.testing.assert_allclose(*said, atol=2e-3)
        prior = np.repeat(said[0][None], 32, 0)
    rows = np.arange(32, dtype=np.int32)
    logits = [
        executor.forward(tokens, placed(0, 32), rows, cache, prior)
        for executor, cache in zip(pair, caches, strict=True)
    ]
    np.testing.assert_allclose(*logits, atol=2e-3, rtol=0)
    for step in range(32, 40):
        chosen = [one[-1].argmax() for one in logits]
        assert chosen[0] == chosen[1]
        logits = [
            executor.forward(
                np.array(chosen[:1], np.int32), placed(step, 1), np.zeros(1, np.int32), cache,
                None if prior is None else prior[:1],
            )
            for executor, cache in zip(pair, caches, strict=True)
        ]  # fmt: skip
        np.testing.assert_allclose(*logits, atol=2e-3, rtol=0)
