"""Linking a compiled model."""

from __future__ import annotations

import pytest
import tvm

from gem_host.processor import choose_level
from gemcore.compiler import instructions
from gemcore.compiler.build import build_library
from gemcore.compiler.export import export_decoder
from gemcore.compiler.lower import lower
from gemcore.errors import GemError
from gemcore.models.layout import weight_units
from gemcore.testing import tiny_config


@pytest.fixture(scope="module")
def module() -> tvm.IRModule:
    config = tiny_config(layers=1)
    exported = export_decoder(config, {unit.name: "f16" for unit in weight_units(config)})
    return lower(exported, config, instructions.PLAIN)


def test_a_library_is_all_that_is_left(module, tmp_path):
    build_library(module, choose_level("auto").target, tmp_path / "model.so")
    assert [path.name for path in tmp_path.iterdir()] == ["model.so"]
    assert (tmp_path / "model.so").read_bytes().startswith(b"\x7fELF")


def test_without_a_linker_the_error_says_what_to_install(module, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        GemError, match="needs a C[+][+] compiler, and none is in PATH: install one"
    ):
        build_library(module, choose_level("auto").target, tmp_path / "model.so")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("linker", ["/no/such/linker", "false"])
def test_when_linking_fails_the_error_is_one_sentence(module, tmp_path, monkeypatch, linker):
    monkeypatch.setenv("CXX", linker)
    with pytest.raises(GemError, match=r"^linking .* failed \(.*install a C\+\+ comp") as caught:
        build_library(module, choose_level("auto").target, tmp_path / "model.so")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
