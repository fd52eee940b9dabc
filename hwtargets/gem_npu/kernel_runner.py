"""One kernel on the emulated processor: what it gives, and how many packets it takes."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gem_npu.counting import Counts
from gem_npu.toolchain import EMULATOR, HVX_TARGET, NATIVE, SCALAR_TARGET, link, missing_emulator
from gemcore.errors import GemError

_TYPE_CODES = {"i": 0, "u": 1, "f": 2}

Array = npt.NDArray[Any]


@attrs.frozen
class KernelProgram:
    """A program that calls one kernel.

    Attributes:
        path: where it lies.
    """

    path: Path

    @classmethod
    def build(cls, kernel: Any, folder: Path, *, vectors: bool) -> KernelProgram:
        """Compile a kernel (a PrimFunc), with HVX or without, and link it to a program in `folder`."""
        import tvm

        target = tvm.target.Target(HVX_TARGET if vectors else SCALAR_TARGET)
        target = tvm.target.Target(target, host=target)
        name = "gem_kernel"
        module = tvm.IRModule({name: kernel.with_attr("global_symbol", name)})
        tvm.compile(module, target=target).mod.write_to_file(str(folder / "kernel.o"))
        flags = [f"-DGEM_KERNEL=__tvm_ffi_{name}", *include_flags()]
        link([NATIVE / "kernel.c", folder / "kernel.o"], folder / "kernel", flags)
        return cls(folder / "kernel")

    def __call__(self, *arrays: Array) -> tuple[list[Array], Counts]:
        """All arrays as the kernel leaves them, and what it took.

        Raises GemError when there is no emulator, or when the kernel fails.
        """
        if missing := missing_emulator():
            raise GemError(missing)
        given = [np.ascontiguousarray(array) for array in arrays]
        words = [struct.pack("<i", len(given))]
        for array in given:
            code, bits = _TYPE_CODES[array.dtype.kind], array.dtype.itemsize * 8
            header = (code, bits, array.ndim, *array.shape)
            words += [struct.pack(f"<{len(header)}i", *header), array.tobytes()]
        command = [*EMULATOR, str(self.path)]
        done = subprocess.run(command, input=b"".join(words), capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip() or f"code {done.returncode}"
            raise GemError(f"the kernel failed under {EMULATOR[0]}: {reason}")
        packets, instructions, vectors = struct.unpack_from("<3I", done.stdout)
        counts = Counts(packets=packets, instructions=instructions, vectors=vectors, calls=1)
        found, place = [], 12
        for array in given:
            data = done.stdout[place : place + array.nbytes]
            found.append(np.frombuffer(data, array.dtype).reshape(array.shape))
            place += array.nbytes
        return found, counts


def include_flags() -> list[str]:
    """Where the headers of TVM's C interface lie, for the C compiler."""
    import tvm_ffi

    folder = Path(tvm_ffi.__file__).parent / "include"
    return ["-I", str(folder)]
