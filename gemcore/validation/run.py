"""All checks of a plugin, in order; its code runs in other processes, each with a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from gemcore.validation.metadata import metadata_findings
from gemcore.validation.report import Finding
from gemcore.validation.subject import Subject, find_subject

REGISTER_SECONDS = 30.0
"""A plugin that needs longer to register is taken to hang."""

SELECT_SECONDS = 120.0
"""The same for making all that it offers, torch's own import included."""

Show = Callable[[Finding], None]


def validate_plugin(plugin: str, show: Show, *, quick: bool = False, timeout: float = 600.0) -> str:
    """Check a plugin, and tell `show` each finding as it is made.

    Args:
        plugin: the name of an installed plugin, or the folder of a project.
        show: called with every finding.
        quick: leave out what compiles a model.
        timeout: seconds for the conformance checks.

    Returns:
        Name and version of the distribution.

    Raises:
        UsageError: there is no such plugin.
        GemError: a folder cannot be built.
    """
    with find_subject(plugin) as subject:
        for finding in metadata_findings(subject):
            show(finding)
        if subject.entries:
            modes = (
                ("register", min(REGISTER_SECONDS, timeout)),
                ("select", min(SELECT_SECONDS, timeout)),
                ("quick" if quick else "conformance", timeout),
            )
            for mode, seconds in modes:
                if not _pass_on(probe(subject, mode, seconds), show):
                    break
        return subject.title


def probe(subject: Subject, mode: str, seconds: float) -> Iterator[Finding]:
    """Run one part of the checks in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gem-probe-") as name:
        folder = Path(name)
        report, output = folder / "report.jsonl", folder / "output"
        command = [
            sys.executable,
            "-m",
            "gemcore.validation.probe",
            mode,
            subject.name,
            str(report),
        ]
        code = _run(command, _environment(subject), output, seconds)
        told = _read(report)
        yield from (_finding(values) for values in told if "status" in values)
        said = output.read_text("utf-8", errors="replace").strip()
        ended = any(values.get("end") for values in told)
        begun = [values["begun"] for values in told if values.get("begun")]
        doing = begun[-1] if begun else f"the check '{mode}'"
        if code is None:
            detail = f"it does not finish within {seconds:g} s and was stopped: it seems to hang"
            yield Finding(check=doing, status="failed", detail=f"{subject.title}: {detail}")
        elif not ended:
            last = said.splitlines()[-1] if said else "without a word"
            detail = f"{subject.title}: its code ended the process with exit code {code}: {last}"
            yield Finding(check=doing, status="failed", detail=detail)
        if mode == "register" and code is not None:
            yield _printing(said)


def _pass_on(findings: Iterator[Finding], show: Show) -> bool:
    """Show findings; whether it makes sense to go on."""
    sound = True
    for finding in findings:
        show(finding)
        sound &= finding.status != "failed" or not finding.check.startswith("registers")
    return sound


def _printing(said: str) -> Finding:
    check = "prints nothing when it is imported"
    if not said:
        return Finding(check=check, status="ok")
    first = said.splitlines()[0][:80]
    return Finding(
        check=check, status="failed", detail=f"it prints '{first}', and would with every command"
    )


def _run(
    command: list[str], environment: dict[str, str], output: Path, seconds: float
) -> int | None:
    """Exit code of a command whose output goes to a file; None where it was stopped for its time."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # What the plugin has started goes with it.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _environment(subject: Subject) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "GEM_PLUGINS"}
    if subject.folder is not None:
        paths = [str(subject.folder), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _read(report: Path) -> list[dict[str, Any]]:
    if not report.exists():
        return []
    found = []
    for line in report.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # cut off when the process was stopped
            continue
    return found


def _finding(values: dict[str, Any]) -> Finding:
    names = {field.name for field in attrs.fields(Finding)}
    return Finding(**{key: value for key, value in values.items() if key in names})
