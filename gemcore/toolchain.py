"""Tools that are not Python's: which are here, and the sentence for one that is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cc")
"""C++ compilers that TVM links with, in its order."""

SET_UP = "run 'make setup-targets', or install the Debian package {package}"


def missing_compiler() -> str:
    """Why nothing can be compiled for this machine itself; empty where it can."""
    chosen = os.environ.get("CXX") or os.environ.get("CC")
    if chosen or any(shutil.which(name) for name in COMPILERS):
        return ""
    return (
        "linking the compiled model needs a C++ compiler, and none is in PATH: "
        "install one such as g++ and try again"
    )


def missing_tools(target: str, purpose: str, tools: Iterable[tuple[str, str]]) -> str:
    """Why `target` cannot do something here; empty where all tools are in PATH.

    Args:
        target: name of the target.
        purpose: what the tools are for, for example `compiling`.
        tools: commands, each with the Debian package that has it.

    >>> missing_tools("my-board", "compiling", [("no-such-tool", "my-tools")])
    "compiling for target 'my-board' needs no-such-tool, which is not in PATH: \
run 'make setup-targets', or install the Debian package my-tools"
    """
    absent = [(tool, package) for tool, package in tools if shutil.which(tool) is None]
    if not absent:
        return ""
    names = ", ".join(tool for tool, _ in absent)
    are = "is" if len(absent) == 1 else "are"
    packages = " ".join(dict.fromkeys(package for _, package in absent))
    remedy = SET_UP.format(package=packages)
    return f"{purpose} for target '{target}' needs {names}, which {are} not in PATH: {remedy}"


def missing_folder(target: str, purpose: str, holds: str, folder: Path, package: str) -> str:
    """Why `target` cannot do something here for want of a folder; empty where it is there.

    Args:
        target: name of the target.
        purpose: what the folder is for, for example `emulation`.
        holds: what is in it, in words.
        folder: where it would be.
        package: the Debian package that has it.

    >>> missing_folder("my-board", "emulation", "a C library", Path("/no/such"), "my-libc")
    "emulation for target 'my-board' needs a C library in /no/such: \
run 'make setup-targets', or install the Debian package my-libc"
    """
    if folder.is_dir():
        return ""
    return f"{purpose} for target '{target}' needs {holds} in {folder}: {SET_UP.format(package=package)}"
