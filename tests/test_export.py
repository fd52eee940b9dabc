"""Exported folders: whole or not there, with a README of the target's own."""

from __future__ import annotations

import attrs
import pytest

from gem_host.target import HostTarget
from gemcore.api import open_session
from gemcore.errors import UsageError
from gemcore.export import export_bundle, readme
from gemcore.reports import DelegationReport, ExportReport, delegated


def test_an_exported_bundle_opens_and_its_readme_tells_sizes(tiny_bundle, tmp_path):
    folder = tmp_path / "out"
    report = export_bundle(tiny_bundle, HostTarget(), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.gem"]
    text = (folder / "README.md").read_text()
    size = sum(file.stat().st_size for file in (folder / "model.gem").iterdir())
    assert f"| `model.gem` | {size:,} |" in text
    for heading in ("How to link", "How to call", "Where the work is done", "What was verified"):
        assert f"## {heading}" in text
    assert "| `qlinear` |" in text
    assert report.files[0][0] == "model.gem"
    assert open_session(folder / "model.gem", threads=1).logits([1, 2]).shape[0] == 2


def test_a_readme_tells_work_from_what_is_done_beside_it(tiny_bundle, tmp_path):
    found = DelegationReport.from_json(tiny_bundle.manifest.delegation)
    elsewhere = {"rms_norm": ("cpu", "no floats"), "attention": ("cpu", "no softmax")}
    changed = attrs.evolve(found, operations=delegated(found.operations, elsewhere))
    manifest = attrs.evolve(tiny_bundle.manifest, delegation=changed.to_json())
    bundle = attrs.evolve(tiny_bundle, manifest=manifest)
    report = ExportReport(files=(), link="a", call="b", verified=("c",))
    lines = readme(bundle, report, tmp_path).splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["qlinear", "attention"]
    assert rows[1].endswith("| no softmax |")
    assert "Without multiply-accumulates, on cpu: `rms_norm`." in lines


def test_what_is_there_already_is_left_alone(tiny_bundle, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="exists and is not an empty folder: choose another name"):
        export_bundle(tiny_bundle, HostTarget(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_of_an_export_that_fails(tiny_bundle, tmp_path):
    class Broken(HostTarget):
        def export(self, bundle, folder):
            (folder / "half").write_text("half")
            raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        export_bundle(tiny_bundle, Broken(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
