"""Kernels and whole models compiled for each instruction set that this machine can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import tvm

from gem_host.processor import LEVELS, Level, choose_level, missing_flags
from gemcore.compiler import instructions
from gemcore.compiler.instructions import InstructionSet
from gemcore.schemes import Scheme

TOKEN_COUNTS = (1, 3, 5, 13, 30)
"""Around and between the token tiles 4 and 12, and the 16 tokens from which rows run in parallel."""


@attrs.frozen
class Machine:
    """One instruction set, as TVM's target and as the kernels know it."""

    level: Level
    isa: InstructionSet

    def instructions_for(self, scheme: Scheme, tiles: tuple[int, ...] = (2, 1)) -> InstructionSet:
        """The instructions, with fewer tokens at a time for most schemes: that is quicker to compile."""
        if scheme.name in ("q4a-g32", "q4s-g32", "q8-g32"):
            return self.isa
        return attrs.evolve(self.isa, token_tiles=tiles)

    def compile(self, kernel: Any) -> Callable[..., list[np.ndarray]]:
        """Compile a kernel: a function of tensors that returns copies of them, outputs written."""
        module = tvm.IRModule({"kernel": kernel.with_attr("global_symbol", "kernel")})
        library = tvm.compile(module, target=tvm.target.Target(self.level.target))

        def call(*arguments: torch.Tensor) -> list[np.ndarray]:
            tensors = [tvm.runtime.tensor(argument.numpy()) for argument in arguments]
            library["kernel"](*tensors)
            return [tensor.numpy() for tensor in tensors]

        return call


def machine_called(name: str) -> Machine:
    """The instruction set of that name, `auto` the best that this machine has; or skip the test."""
    level = choose_level("auto") if name == "auto" else next(x for x in LEVELS if x.name == name)
    if missing := missing_flags(level):
        pytest.skip(f"this machine cannot run {level.name}: it lacks {', '.join(missing)}")
    return Machine(level, getattr(instructions, level.kernels))


@pytest.fixture(scope="session")
def find_machine() -> Callable[[str], Machine]:
    return machine_called


@pytest.fixture(scope="session", params=["vnni512", "avx2", "plain"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return machine_called(request.param)


@pytest.fixture(params=TOKEN_COUNTS, ids="{} tokens".format)
def tokens(request: pytest.FixtureRequest) -> int:
    return request.param
