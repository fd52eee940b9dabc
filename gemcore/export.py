"""`gem export`: a folder with all that the developer of an application needs, for one target."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemcore.bundle import ENCODER_TOKENIZER, MANIFEST, TEMPLATE, TOKENIZER, WEIGHTS
from gemcore.cache import explained
from gemcore.errors import UsageError
from gemcore.reports import DelegationReport

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.protocols import Target
    from gemcore.reports import ExportReport

README = "README.md"

_TEXT_FILES = (
    (TOKENIZER, "the tokenizer, in the format of the `tokenizers` library"),
    (TEMPLATE, "the chat template"),
    (ENCODER_TOKENIZER, "the tokenizer of the router's own encoder"),
)


def export_bundle(bundle: Bundle, target: Target, folder: Path) -> ExportReport:
    """Write `folder`, which appears only when it is whole; raises UsageError where it exists already."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder: choose another name")
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            report = target.export(bundle, temporary)
            text = readme(bundle, report, temporary)
            (temporary / README).write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return report


def copy_weights(bundle: Bundle, folder: Path) -> tuple[tuple[str, str], ...]:
    """Copy weights and texts of a bundle to `folder`; what `ExportReport.files` says of them."""
    weights = "the packed weights, in the format of the `safetensors` library"
    files = [(WEIGHTS, weights), *_TEXT_FILES]
    present = tuple((name, what) for name, what in files if (bundle.folder / name).is_file())
    for name, _ in present:
        shutil.copyfile(bundle.folder / name, folder / name)
    return present


def copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy every file that the bundle's manifest vouches for, and the manifest, to the new `folder`."""
    folder.mkdir(parents=True)
    for name in (MANIFEST, *bundle.manifest.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(bundle.folder / name, folder / name)


def readme(bundle: Bundle, report: ExportReport, folder: Path) -> str:
    """The README of an exported folder, in Markdown."""
    manifest = bundle.manifest
    return "\n".join(
        [
            f"# {manifest.model['name']} for {manifest.target}",
            "",
            f"Made by GEM {manifest.versions['gem']} with TVM {manifest.versions['tvm']}: quantizer "
            f"`{manifest.quantizer}`, router `{manifest.router}`, KV cache `{manifest.kv_cache}`. "
            f"Licence of the model: {manifest.model.get('licence') or 'not stated'}.",
            "",
            "## Files",
            "",
            *_table(("file", "bytes", "what it is"), _file_rows(report, folder)),
            "",
            "## How to link",
            "",
            report.link.strip(),
            "",
            "## How to call",
            "",
            report.call.strip(),
            "",
            "## Where the work is done",
            "",
            *_delegation(DelegationReport.from_json(manifest.delegation)),
            "",
            "## What was verified",
            "",
            *[f"- {sentence}" for sentence in report.verified],
            "",
            *_unverified(report),
        ]
    )


_DELEGATION = ("operation", "unit", "calls", "multiply-accumulates a token", "why not the unit")


def _unverified(report: ExportReport) -> list[str]:
    if not report.unverified:
        return []
    lines = [f"- {sentence}" for sentence in report.unverified]
    return ["## What was not verified", "", *lines, ""]


def _file_rows(report: ExportReport, folder: Path) -> list[tuple[Any, ...]]:
    rows = []
    for name, what in report.files:
        path = folder / name
        inside = path.rglob("*") if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in inside if file.is_file())
        rows.append((f"`{name}`", f"{size:,}", what))
    return rows


def _delegation_rows(report: DelegationReport) -> list[tuple[Any, ...]]:
    total = sum(o.multiply_accumulates for o in report.operations) or 1
    return [
        (
            f"`{o.operation}`",
            o.unit,
            o.count,
            f"{o.multiply_accumulates:,} ({o.multiply_accumulates / total:.1%})",
            o.reason,
        )
        for o in report.operations
        if o.multiply_accumulates
    ]


def _delegation(report: DelegationReport) -> list[str]:
    """Where the multiply-accumulates are done as a table, and below it what else another unit does."""
    lines = _table(_DELEGATION, _delegation_rows(report))
    elsewhere: dict[str, list[str]] = {}
    for operation in report.operations:
        if operation.reason and not operation.multiply_accumulates:
            elsewhere.setdefault(operation.unit, []).append(f"`{operation.operation}`")
    for unit, names in elsewhere.items():
        lines += ["", f"Without multiply-accumulates, on {unit}: {', '.join(names)}."]
    return lines


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
