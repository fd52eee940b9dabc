"""Counting the instructions that a program executes on an emulated processor."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

SOURCE = Path(__file__).parent / "count.c"
SYSTEM_ROOT = "/usr/aarch64-linux-gnu"

Count = Callable[[int, int], int]
"""Instructions of a whole run that reads so many tokens of a prompt and generates so many."""


@attrs.frozen(kw_only=True)
class PerToken:
    """Instructions a token.

    Attributes:
        prefill: on average over the tokens of a prompt, all but the first half of them.
        decode: on average over generated tokens.
    """

    prefill: float
    decode: float


def counter(folder: Path) -> Path:
    """Compile the plugin to `folder`; its path."""
    plugin = folder / "count.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(plugin), str(SOURCE)], check=True)
    return plugin


def executed(plugin: Path, cpu: str, program: Sequence[str], libraries: Path | None = None) -> int:
    """Instructions that `program` executes on an emulated `cpu`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "count"
        words = ["qemu-aarch64", "-cpu", cpu, "-L", SYSTEM_ROOT, "-plugin", f"{plugin},out={out}"]
        if libraries is not None:
            words += ["-E", f"LD_LIBRARY_PATH={libraries}"]
        subprocess.run([*words, *program], check=True, stdout=subprocess.DEVNULL)
        return int(out.read_text())


def per_token(count: Count, prompt_tokens: int, new_tokens: int) -> PerToken:
    """Instructions a token, by differences of whole runs, so that loading the model cancels out."""
    half, whole = count(prompt_tokens // 2, 0), count(prompt_tokens, 0)
    longer = count(prompt_tokens, new_tokens)
    return PerToken(
        prefill=(whole - half) / (prompt_tokens - prompt_tokens // 2),
        decode=(longer - whole) / new_tokens,
    )
