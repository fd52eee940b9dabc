"""Writes TOSA graphs, runs Arm's reference model on them and compiles them with Vela.

Run as a program by the interpreter that has Arm's tools, which need not have GEM: it imports neither GEM
nor torch. `graphs.py FOLDER CONFIG SYSTEM MEMORY` takes every `NAME.npz` of the folder and leaves
`NAME.tosa`, what the reference model gives for the array `x` as `NAME.out.npy`, and Vela's files under
`vela/`. With `-` as CONFIG nothing is compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

INI = "Arm/vela.ini"


class Graph:
    """A TOSA graph under construction; a tensor is known by its name."""

    def __init__(self) -> None:
        import tosa_serializer as serializer

        self.ts = serializer
        self.made = serializer.TosaSerializer(
            targetMajor=1, targetMinor=0, targetPatch=0, targetDraft=False
        )
        types = serializer.DType
        self.types = {"int8": types.INT8, "int32": types.INT32}

    def input(self, name: str, shape: list[int]) -> str:
        """An int8 input."""
        self.made.addInputTensor(self.ts.TosaSerializerTensor(name, shape, self.types["int8"]))
        return name

    def constant(self, values: Any) -> str:
        """An array that the graph holds."""
        made = self.made.addConst(list(values.shape), self.types[values.dtype.name], values)
        return made if isinstance(made, str) else str(made.name)

    def operation(
        self, kind: str, inputs: list[str], shape: list[int], dtype: str, attribute: Any, last: bool
    ) -> str:
        """Add an operation; gives the name of what it makes."""
        add = self.made.addOutput if last else self.made.addIntermediate
        made = add(shape, self.types[dtype])
        self.made.addOperator(getattr(self.ts.Op, kind), inputs, [made.name], attribute)
        return str(made.name)

    def attribute(self, kind: str, **values: Any) -> Any:
        """What an operation is told beside its inputs."""
        made = self.ts.TosaSerializerAttribute()
        getattr(made, f"{kind}Attribute")(**values)
        return made

    def rescale(self, x: str, shape: list[int], factors: tuple[Any, Any], last: bool) -> str:
        """int32 sums to int8, by multipliers and shifts."""
        multiplier, shift = factors
        zero32, zero8 = self.constant(np.zeros(1, np.int32)), self.constant(np.zeros(1, np.int8))
        attribute = self.attribute(
            "Rescale", scale32=True, rounding_mode=self.ts.RoundingMode.SINGLE_ROUND,
            per_channel=len(multiplier) > 1, input_unsigned=False, output_unsigned=False,
        )  # fmt: skip
        inputs = [x, self.constant(multiplier), self.constant(shift), zero32, zero8]
        return self.operation("RESCALE", inputs, shape, "int8", attribute, last)

    def linear(self, x: str, tokens: int, arrays: Any, name: str, last: bool) -> str:
        """A product and what makes its sums int8 again."""
        weight = arrays[f"{name}.weight"]
        outputs, inputs = weight.shape
        zero8 = self.constant(np.zeros(1, np.int8))
        attribute = self.attribute(
            "Conv2d", pad=[0, 0, 0, 0], stride=[1, 1], dilation=[1, 1], local_bound=False,
            acc_type=self.types["int32"],
        )  # fmt: skip
        given = [
            x, self.constant(weight.reshape(outputs, 1, 1, inputs)),
            self.constant(arrays[f"{name}.bias"]), zero8, zero8,
        ]  # fmt: skip
        shape = [1, 1, tokens, outputs]
        sums = self.operation("CONV2D", given, shape, "int32", attribute, False)
        factors = (arrays[f"{name}.multiplier"], arrays[f"{name}.shift"])
        return self.rescale(sums, shape, factors, last)

    def feed_forward(self, x: str, tokens: int, arrays: Any) -> str:
        """Gate, up, the table of silu, their product, down."""
        gate = self.linear(x, tokens, arrays, "gate", False)
        up = self.linear(x, tokens, arrays, "up", False)
        shape = [1, 1, tokens, arrays["gate.weight"].shape[0]]
        table = self.constant(arrays["silu"])
        nothing = self.attribute("Table")
        active = self.operation("TABLE", [gate, table], shape, "int8", nothing, False)
        no_shift = self.constant(np.zeros(1, np.int8))
        multiply = self.attribute("Mul")
        inputs = [active, up, no_shift]
        product = self.operation("MUL", inputs, shape, "int32", multiply, False)
        factors = (arrays["product.multiplier"], arrays["product.shift"])
        middle = self.rescale(product, shape, factors, False)
        return self.linear(middle, tokens, arrays, "down", True)


def write(arrays: Any, path: Path) -> bytes:
    """Write the graph of a part, and give its bytes."""
    graph = Graph()
    tokens, inputs = arrays["x"].shape
    x = graph.input("x", [1, 1, tokens, inputs])
    if "silu" in arrays:
        graph.feed_forward(x, tokens, arrays)
    else:
        graph.linear(x, tokens, arrays, "linear", True)
    data = bytes(graph.made.serialize())
    path.write_bytes(data)
    return data


def main(words: list[str]) -> None:
    """See the module's docstring."""
    import tosa_reference_model

    folder, accelerator, system, memory = Path(words[0]), *words[1:]
    for path in sorted(folder.glob("*.npz")):
        arrays = dict(np.load(path, allow_pickle=False))
        data = write(arrays, path.with_suffix(".tosa"))
        x = arrays["x"]
        outputs, status = tosa_reference_model.run(data, [x.reshape(1, 1, *x.shape)])
        if "VALID" not in str(status):
            raise SystemExit(f"the reference model says {status} of {path.stem}")
        result = np.frombuffer(outputs[0].tobytes(), np.int8)
        np.save(path.with_suffix(".out.npy"), result.reshape(len(x), -1))
        if accelerator != "-":
            compile_graph(path.with_suffix(".tosa"), folder / "vela", accelerator, system, memory)


def compile_graph(path: Path, folder: Path, accelerator: str, system: str, memory: str) -> None:
    """Vela's command stream and its estimate."""
    from ethosu.vela import vela

    vela.main([
        str(path), "--accelerator-config", accelerator, "--config", INI, "--system-config", system,
        "--memory-mode", memory, "--output-dir", str(folder), "--output-format", "raw",
    ])  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
