"""The code that the documents show runs: Python, and commands with what they print.

A block may have an HTML comment before it:

- `<!-- not run: REASON -->`: shown only;
- `<!-- slow: REASON -->`: runs in `make test-all` only;
- `<!-- file: PATH -->`: is written to a file, for what follows on the page;
- `<!-- from: PATH -->`: is part of a file that commands of the page have made.

`<!-- commands not run: REASON -->` or `<!-- commands slow: REASON -->` goes for all commands of a page
that have no comment of their own; `<!-- run -->` takes a block out of it. Blocks with `>>>` are doctests,
which pytest collects by itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("console", "sh")
SECONDS = 1800

_FENCE = re.compile(
    r"(?:^[ ]*<!-- (?!commands )(?P<mark>[a-z ]+?)(?:: (?P<reason>[^>]+?))? -->\n\n?)?"
    r"^(?P<indent>[ ]*)```(?P<language>[a-z]+)(?P<title>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    flags=re.M | re.S,
)
_PAGE = re.compile(r"^<!-- commands (?P<mark>not run|slow): (?P<reason>[^>]+) -->$", flags=re.M)


@attrs.frozen
class Block:
    """One fenced block: `mark` is one of the words of the module's docstring, or empty."""

    language: str
    mark: str
    reason: str
    code: str
    line: int

    @property
    def runs(self) -> bool:
        return self.mark in ("", "run", "file", "from")


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[Block]:
    page = _PAGE.search(text)
    for found in _FENCE.finditer(text):
        mark, reason = found["mark"] or "", (found["reason"] or "").strip()
        if page and not mark and found["language"] in COMMANDS:
            mark, reason = page["mark"], page["reason"].strip()
        indent = len(found["indent"])
        code = "".join(line[indent:] or "\n" for line in found["code"].splitlines(keepends=True))
        yield Block(found["language"], mark, reason, code, text.count("\n", 0, found.start()) + 1)


def shown(path: Path) -> list[Block]:
    return [
        block
        for block in blocks(path.read_text(encoding="utf-8"))
        if block.language in ("python", *COMMANDS) or block.mark in ("file", "from")
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pages(*, slow: bool) -> list[Path]:
    """Pages with a block that runs, or with a slow one."""
    return [
        path
        for path in documents()
        if any(block.mark == "slow" if slow else block.runs for block in shown(path))
    ]


def steps(code: str) -> list[tuple[str, str]]:
    """Commands of a console block, each with what is shown below it."""
    found: list[tuple[str, str]] = []
    for line in code.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), ""))
        elif found:
            command, output = found[-1]
            found[-1] = (command, f"{output}{line}\n")
        else:
            found.append((line, ""))
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether a text is the expected one, where `…` stands for anything."""
    parts = [re.escape(part) for part in expected.strip().split("…")]
    return re.fullmatch(r"\s*" + ".*".join(parts) + r"\s*", printed, flags=re.S) is not None


def run_commands(block: Block, place: str, folder: Path, environment: dict[str, str]) -> None:
    for command, expected in steps(block.code):
        script = f'{command}\ncode=$?\npwd > "$GEM_DOC_STATE"\nexit $code'
        state = folder / ".state"
        here = state.read_text().strip() if state.exists() else str(folder)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=here,
            env=environment | {"GEM_DOC_STATE": str(state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if expected else subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        said = f"{place}: {command}\nprinted:\n{done.stdout}{done.stderr or ''}"
        fails = bool(re.search(r"^gem: ", expected, flags=re.M))
        assert (done.returncode != 0) == fails, said
        if expected:
            assert matches(expected, done.stdout), f"{said}\nexpected:\n{expected}"


def run_page(path: Path, folder: Path, environment: dict[str, str], *, slow: bool) -> None:
    names: dict[str, object] = {"__name__": "documents"}
    some_slow = any(block.mark == "slow" for block in shown(path))
    for block in shown(path):
        place = f"{name_of(path)}:{block.line}"
        if block.mark == "not run" or (block.mark == "slow" and not slow):
            continue
        if block.mark == "from" and some_slow and not slow:
            continue  # the commands that make the file have not run
        state = folder / ".state"
        here = Path(state.read_text().strip()) if state.exists() else folder
        if block.mark == "file":
            file = here / block.reason
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code, encoding="utf-8")
        elif block.mark == "from":
            content = (here / block.reason).read_text(encoding="utf-8")
            assert block.code.strip() in content, f"{place}: not what {block.reason} says"
        elif block.language in COMMANDS:
            run_commands(block, place, folder, environment)
        elif ">>>" not in block.code:
            exec(compile("\n" * block.line + block.code, str(path), "exec"), names)


def own_environment() -> dict[str, str]:
    scripts = sysconfig.get_path("scripts")
    return os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment that sees what is installed here, into which a page may install more."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    here = sysconfig.get_path("purelib")
    (site / "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    scripts = {"gem": "gemcore", "pip": "pip", "pytest": "pytest"}
    for name, module in scripts.items():
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{python}" -m {module} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "VIRTUAL_ENV": str(folder), "COLUMNS": "120"}


def test_blocks_are_found_with_their_marks() -> None:
    text = """
<!-- commands not run: they take long -->

```console
$ gem run
```

<!-- run -->

```console
$ gem --version
gem …
```

1. In a list:

   <!-- file: a/b.py -->
   ```python title="b.py"
   def f():

       return 1
   ```
"""
    first, second, third = blocks(text)
    assert (first.mark, first.reason, first.runs) == ("not run", "they take long", False)
    assert (second.mark, second.runs) == ("run", True)
    assert (third.mark, third.reason, third.code) == (
        "file",
        "a/b.py",
        "def f():\n\n    return 1\n",
    )
    assert steps("$ one\nsaid\n$ two\n") == [("one", "said\n"), ("two", "")]
    assert matches("a … c\n", "a b c\n")
    assert not matches("a … c\n", "a b d\n")


def test_every_mark_is_known_and_gives_its_reason() -> None:
    for path in documents():
        for block in shown(path):
            place = f"{name_of(path)}:{block.line}: <!-- {block.mark} -->"
            assert block.mark in ("", "run", "not run", "slow", "file", "from"), place
            assert bool(block.reason) == (block.mark not in ("", "run")), place


@pytest.mark.parametrize("path", pages(slow=False), ids=name_of)
def test_code_of_the_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(path, tmp_path, own_environment(), slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", pages(slow=True), ids=name_of)
def test_slow_code_of_the_page_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_environment: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(path, tmp_path, fresh_environment, slow=True)


def test_reference_of_commands_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "command_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
