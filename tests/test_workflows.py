"""What runs in continuous integration cannot change under us, and has no more rights than it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
PINNED = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\Z")


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", WORKFLOWS, ids=ids)
def test_every_action_is_pinned_by_its_hash(path: Path) -> None:
    used = re.findall(r"uses: (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    assert used
    assert [action for action in used if not PINNED.match(action)] == []


def test_one_action_has_one_hash() -> None:
    used = {
        line.partition("@")[::2]
        for path in WORKFLOWS
        for line in re.findall(r"uses: (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    }
    names = [name for name, _ in used]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", WORKFLOWS, ids=ids)
def test_a_workflow_may_only_read_unless_a_job_says_more(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        writes = {key for key, value in job.get("permissions", {}).items() if value == "write"}
        assert writes <= {"id-token", "attestations"}, name
        assert not writes or job["environment"]["name"] == "pypi", name


def test_a_release_is_published_without_a_secret_and_attested() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "password" not in text
    publish = load(ROOT / ".github/workflows/release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write", "attestations": "write"}
    actions = [step["uses"].partition("@")[0] for step in publish["steps"]]
    assert actions[1:] == ["actions/attest-build-provenance", "pypa/gh-action-pypi-publish"]


@pytest.mark.parametrize("path", FORMS, ids=ids)
def test_issue_forms_have_what_the_form_needs(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= set(form)
    for part in form["body"]:
        assert part["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert part["type"] == "markdown" or (part["id"] and part["attributes"]["label"])


def test_pre_commit_runs_what_is_in_the_environment() -> None:
    configuration = load(ROOT / ".pre-commit-config.yaml")
    (local,) = configuration["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
        for word in hook["entry"].split():
            if word.endswith(".py"):
                assert (ROOT / word).is_file()
