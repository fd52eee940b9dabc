from __future__ import annotations

import json
import shutil

import pytest

from gemcore.bundle import MANIFEST, WEIGHTS, new_bundle, open_bundle
from gemcore.errors import BundleError, UsageError
from gemcore.models.layout import weight_units
from gemcore.text.chat import ChatTemplate
from gemcore.text.tokenizer import Tokenizer


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    folder = tmp_path / "copy.gem"
    shutil.copytree(tiny_bundle.folder, folder)
    return folder


def change_manifest(folder, **changes):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_manifest_survives_the_file(tiny_bundle, tiny):
    again = open_bundle(tiny_bundle.folder).manifest
    assert again == tiny_bundle.manifest
    assert again.config == tiny.config
    assert again.model["identity"] == tiny.identity
    assert set(again.plan) == {unit.name for unit in weight_units(tiny.config)}


def test_text_data_survives_the_bundle(tiny_bundle, tiny):
    assert tiny_bundle.text_data() == tiny.text


def test_tokenizer_of_a_bundle_reads_its_file_again_when_it_was_released(copy, tiny):
    bundle = open_bundle(copy)
    tokenizer, reference = bundle.tokenizer(), Tokenizer.from_text_data(tiny.text)
    ids = reference.encode_prompt("hello world")
    assert tokenizer.encode_prompt("hello world") == ids
    assert tokenizer.stop_token_ids == reference.stop_token_ids
    tokenizer.release()
    assert tokenizer.encode_prompt("hello world") == ids
    tokenizer.release()
    (copy / "tokenizer.json").unlink()
    assert tokenizer.decode(ids) == reference.decode(ids)
    with pytest.raises(BundleError, match="^cannot read .*tokenizer.json: No such file"):
        tokenizer.encode_prompt("hello world")


def test_chat_template_of_a_bundle(tiny_bundle, tiny):
    assert tiny_bundle.chat_template() == ChatTemplate.from_text_data(tiny.text)


def test_delegation_report_counts_every_multiplication(tiny_bundle, tiny):
    operations = tiny_bundle.manifest.delegation["operations"]
    work = {entry["operation"]: entry["multiply_accumulates"] for entry in operations}
    linear = sum(unit.parameters for unit in weight_units(tiny.config))
    # The embedding is read once, and used a second time as the head.
    assert work["qlinear"] == linear


@pytest.mark.parametrize("name", ["model.so", WEIGHTS, "tokenizer.json", "chat_template.jinja"])
def test_one_changed_byte_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} is not what its manifest vouches for"):
        open_bundle(copy)


def test_truncated_file_is_found_by_its_size(copy):
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"{WEIGHTS} has .* bytes, but its manifest says"):
        open_bundle(copy)


def test_missing_file(copy):
    (copy / "model.so").unlink()
    with pytest.raises(BundleError, match="model.so is missing"):
        open_bundle(copy)


def test_file_that_nobody_vouches_for(copy):
    (copy / "extra.so").write_bytes(b"code")
    with pytest.raises(BundleError, match="holds extra.so, which its manifest.json does not list"):
        open_bundle(copy)


def test_other_tvm_version_is_refused(copy):
    versions = json.loads((copy / MANIFEST).read_text())["versions"]
    change_manifest(copy, versions=versions | {"tvm": "0.26.0"})
    with pytest.raises(BundleError, match=r"made with tvm 0\.26\.0, but .* is installed"):
        open_bundle(copy)


def test_other_format_version_is_refused(copy):
    change_manifest(copy, format_version=99)
    with pytest.raises(BundleError, match="format version 99"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_file_names_stay_inside(copy, name):
    change_manifest(copy, files={name: {"sha256": "0", "size": 1}})
    with pytest.raises(BundleError, match="names a file outside"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format_version": 1}', '{"format_version": 1, "config": 3, "weights": []}'],
)
def test_damaged_manifest(copy, text):
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(copy)


def test_no_bundle_there(tmp_path):
    with pytest.raises(UsageError, match="no bundle at"):
        open_bundle(tmp_path)


def test_failed_bundle_leaves_nothing(tmp_path):
    def fail():
        with new_bundle(tmp_path / "x.gem") as (folder, _):
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_only_bundles_are_replaced(tmp_path, tiny_bundle):
    (tmp_path / "x.gem").mkdir()
    (tmp_path / "x.gem" / "precious").write_text("keep me")
    with pytest.raises(UsageError, match="not a bundle"), new_bundle(tmp_path / "x.gem"):
        pass
    assert (tmp_path / "x.gem" / "precious").read_text() == "keep me"


def test_a_bundle_replaces_another(copy, tiny_bundle):
    with new_bundle(copy) as (folder, finish):
        for path in tiny_bundle.folder.iterdir():
            if path.name != MANIFEST:
                shutil.copy(path, folder / path.name)
        (folder / "extra.txt").write_text("new")
        finish(tiny_bundle.manifest)
    assert "extra.txt" in open_bundle(copy).manifest.files
    assert list(copy.parent.iterdir()) == [copy]
