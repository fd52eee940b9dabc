"""Frameworks for iPhones: read with LLVM's tools; their kernels run for Linux on an emulator."""

from __future__ import annotations

import plistlib
import re
import shutil
import subprocess

import attrs
import numpy as np
import pytest

from gem_apple.framework import FRAMEWORK, LIBRARY, SLICE, description, module_map
from gem_apple.phone import TWIN, UNVERIFIED, iphone_13
from gemcore.api import open_session
from gemcore.build import compile_bundle
from gemcore.compiler import instructions
from gemcore.errors import BundleError
from gemcore.export import export_bundle
from gemcore.models.decoder import causal_placement
from gemcore.reports import DelegationReport
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.settings import OpenSettings

pytestmark = pytest.mark.slow  # the same path is tested for Android every time

FROM_THE_SYSTEM = {
    "_bzero", "_expf", "_logf", "_memcpy", "_memmove", "_memset", "_memset_pattern16", "_powf",
}  # fmt: skip
"""What iOS's C library has."""


@pytest.fixture(scope="module")
def phone():
    readiness = iphone_13().readiness()
    if readiness.build or readiness.run:
        pytest.skip(readiness.build or readiness.run)
    return iphone_13()


@pytest.fixture(scope="module")
def phone_bundle(phone, routed_parts, tiny, tmp_path_factory):
    """The tiny model with experts and a router at each layer.

    Its kernels take one token at a time, which is quicker to compile; those of `pixel6`, which are the
    same, are tested as they are.
    """
    names = routed_parts.names | {"target": "iphone13"}
    parts = attrs.evolve(routed_parts, target=phone, names=names)
    with pytest.MonkeyPatch.context() as patch:
        lean = attrs.evolve(instructions.NEON_DOT, token_tiles=(1,))
        patch.setattr(instructions, "NEON_DOT", lean)
        return compile_bundle(tiny, parts, tmp_path_factory.mktemp("bundles") / "iphone13.gem")


def said(*words: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"there is no {words[0]} in PATH")
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def library(phone_bundle) -> str:
    return str(phone_bundle.folder / FRAMEWORK / SLICE / LIBRARY)


def test_every_member_is_for_arm64_ios_15(library):
    headers = said("llvm-objdump-19", "--macho", "--private-headers", library)
    members = re.findall(r"MH_MAGIC_64\s+(\S+)", headers)
    assert set(members) == {"ARM64"}
    assert len(members) == 3
    assert re.findall(r"platform (\S+)", headers) == ["ios"] * 3
    assert re.findall(r"minos (\S+)", headers) == ["15.0"] * 3


def test_it_defines_the_interface_and_takes_the_c_library_alone(library, phone_bundle):
    header = (phone_bundle.folder / FRAMEWORK / SLICE / "Headers" / "gem.h").read_text()
    declared = set(re.findall(r"GEM_API [^;(]*?\b(gem_\w+)\(", header))
    lines = [line.split() for line in said("llvm-nm-19", library).splitlines()]
    defined = {row[2] for row in lines if len(row) == 3 and row[1].isupper()}
    undefined = {row[1] for row in lines if len(row) == 2 and row[0] == "U"}
    assert {f"_{name}" for name in declared} <= defined
    assert undefined - defined <= FROM_THE_SYSTEM
    assert any(name.startswith("___tvm_ffi_qlinear") for name in defined)


def test_it_uses_dot_products(library):
    assert re.search(r"\bsdot\b", said("llvm-objdump-19", "-d", library))


def test_the_descriptions_are_apples(phone_bundle):
    with (phone_bundle.folder / FRAMEWORK / "Info.plist").open("rb") as file:
        assert plistlib.load(file) == description()
    entry = description()["AvailableLibraries"][0]
    own = phone_bundle.folder / FRAMEWORK / entry["LibraryIdentifier"]
    assert (own / entry["LibraryPath"]).is_file()
    listed = re.findall(r'header "([^"]+)"', (own / "Headers" / "module.modulemap").read_text())
    assert listed == ["gem.h", "gem_model.h"]
    assert all((own / "Headers" / name).is_file() for name in listed)
    assert module_map(["a.h"]).startswith("module GemModel {")


def test_an_app_in_c_compiles_and_links_but_for_the_system(phone_bundle, tmp_path):
    """With clang's module map, as Swift and Objective-C read the headers."""
    own = phone_bundle.folder / FRAMEWORK / SLICE
    source = tmp_path / "app.m"
    source.write_text(
        "@import GemModel;\n"
        '_Static_assert(GEM_EXPERTS == 3, "");\n'
        "int vocabulary(void) { return gem_model_facts()->vocabulary; }\n"
    )
    made = tmp_path / "app.o"
    said(
        "clang-19", "--target=aarch64-apple-ios15.0", "-fmodules", "-ffreestanding",
        f"-fmodules-cache-path={tmp_path}/modules", "-I", str(own / "Headers"),
        "-c", str(source), "-o", str(made),
    )  # fmt: skip
    assert "_gem_model_facts" in said("llvm-nm-19", "-u", str(made))


def test_the_same_kernels_give_the_hosts_bits(phone, phone_bundle, routed_bundle, tiny):
    host = open_session(routed_bundle.folder)._executor
    executor = phone.open(phone_bundle, OpenSettings())
    tokens = np.random.default_rng(1).integers(0, 270, 31, np.int32)
    prior = np.full((31, 3), 0.2, np.float32)
    caches = KVCache(tiny.config), executor.new_cache(tiny.config, "f16")
    for start, count in ((0, 30), (30, 1)):
        placement = causal_placement(start, count).numpy()
        part, rows = tokens[start : start + count], np.arange(count, dtype=np.int32)
        results = [
            one.forward(part, placement, rows, cache, prior[:count])
            for one, cache in zip((host, executor), caches, strict=True)
        ]
        assert np.ptp(results[0]) > 0.1
        np.testing.assert_array_equal(*results)
    executor.close()


def test_the_report_says_what_was_not_checked(phone_bundle):
    report = DelegationReport.from_json(phone_bundle.manifest.delegation)
    assert (report.target, report.unit, report.execution) == ("iphone13", "apple-a15", "emulated")
    assert report.unverified == UNVERIFIED


def test_an_export_is_all_that_an_app_needs(phone, phone_bundle, tmp_path):
    folder = tmp_path / "app"
    report = export_bundle(phone_bundle, phone, folder)
    for name, _ in report.files:
        assert (folder / name).exists()
    text = (folder / "README.md").read_text()
    assert all(sentence in text for sentence in UNVERIFIED)
    assert "import GemModel" in text
    assert not (folder / TWIN).exists()


def test_a_bundle_for_another_machine_is_refused(phone, phone_bundle):
    manifest = attrs.evolve(phone_bundle.manifest, target_details={"machine": "x86_64"})
    with pytest.raises(
        BundleError, match="compiled for x86_64, and target 'iphone13' is arm64-ios"
    ):
        phone.open(attrs.evolve(phone_bundle, manifest=manifest), OpenSettings())


def test_tools_that_are_missing_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    readiness = iphone_13().readiness()
    assert readiness.execution == "emulated"
    assert (
        "clang-19, llvm-ar-19, ld.lld-19, aarch64-linux-gnu-gcc, which are not" in readiness.build
    )
    assert "needs qemu-aarch64, which is not in PATH" in readiness.run
