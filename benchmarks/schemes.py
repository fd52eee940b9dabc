"""How fast the kernels of each packing scheme are, beside those of `q4a-g32`.

    python benchmarks/schemes.py [--schemes q2a-g64,q3s-g32,...] [--base q4a-g32] [--instructions auto]
                                 [--threads 1,2] [--megabytes 96] [--piece 8] [--tokens 128]
                                 [--rounds 200] [--json]

Multiplies activations with weights in the shapes of SmolLM2-135M's linear layers: 576 inputs and 1536, three
quarters and one quarter of the weights. While decoding, one token meets many layers' weights, far more than
fit a cache. That is measured with one token and a piece of the weights at a time, some layers below one
another, as many as take `--piece` megabytes in either scheme; pieces follow one another until `--megabytes`
have been read, and then begin again. A prompt is measured with `--tokens` tokens and one layer. Each scheme
and the base take turns, piece by piece, in one process, so that what else the machine does hits both. A ratio
is the median over the rounds of that within one round: bytes of weights a second while decoding, and tokens a
second of a prompt. On a busy machine the other ratio, of both sides' fastest tenth, says more. With
`--piece 1 --megabytes 1` the weights stay in a cache, and decoding shows what the instructions alone allow.
`f16`, which rounds no activations, has kernels of another kind and is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import tvm

from gem_host.processor import Level, choose_level
from gemcore.compiler import instructions
from gemcore.compiler.build import build_library
from gemcore.compiler.kernels.linear import qlinear
from gemcore.models import ops
from gemcore.packing import pack_weight
from gemcore.runtime.tvm_abi import global_function
from gemcore.runtime.tvm_runtime import aligned, aligned_zeros, as_tensor, use_threads
from gemcore.schemes import SCHEMES, TILE, Scheme, get_scheme

LAYER = {576: 960 + 576 + 3072, 1536: 576}
"""Outputs of one layer's matrices by their inputs."""

WARM_UP = 3
"""Rounds that do not count."""

Calls = list[tuple[Any, list[Any]]]
"""Functions, each with its arguments."""


@attrs.frozen
class Contender:
    """One scheme's compiled kernels, with weights.

    Attributes:
        library: the shared library.
        piece_bytes: bytes of a piece of the weights.
        decode: what one token calls for each piece: functions and their arguments.
        prefill: what a prompt calls.
    """

    library: Path
    piece_bytes: int
    decode: Sequence[Calls]
    prefill: Calls


def contender(scheme: Scheme, level: Level, given: argparse.Namespace, folder: Path) -> Contender:
    """Compile the kernels of `scheme` and make weights for them."""
    isa = getattr(instructions, level.kernels)
    layers = -(-given.piece * 10**6 // layer_bytes(scheme))
    pieces = -(-given.megabytes // given.piece)
    kernels = {
        f"{name}_{inputs}": qlinear(isa, scheme, inputs, outputs * count)
        for inputs, outputs in LAYER.items()
        for name, count in (("decode", layers), ("prefill", 1))
    }
    named = {name: each.with_attr("global_symbol", name) for name, each in kernels.items()}
    library = folder / f"{scheme.name}.so"
    build_library(tvm.IRModule(named), level.target, library)
    module = global_function("ffi.ModuleLoadFromFile")(str(library))
    decode: list[Calls] = [[] for _ in range(pieces)]
    prefill: Calls = []
    for inputs, outputs in LAYER.items():
        weight = random_weight(scheme, inputs, outputs, layers * pieces)
        one, many = module[f"decode_{inputs}"], module[f"prefill_{inputs}"]
        for calls, piece in zip(decode, np.split(weight, pieces), strict=True):
            calls.append((one, arguments(1, inputs, piece)))
        first = weight[: outputs // TILE]
        prefill.append((many, arguments(given.tokens, inputs, first)))
    return Contender(library, layers * layer_bytes(scheme), decode, prefill)


def arguments(tokens: int, inputs: int, packed: Any) -> list[Any]:
    """Random activations, the weight, and room for the result."""
    x = torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(0))
    arrays = [aligned(part.numpy()) for part in ops.quantize(x)]
    arrays += [packed, aligned_zeros((tokens, len(packed) * TILE), np.float32)]
    return [as_tensor(array) for array in arrays]


def layer_bytes(scheme: Scheme) -> int:
    """Bytes of one layer's weights."""
    weights = sum(inputs * outputs for inputs, outputs in LAYER.items())
    return round(weights * scheme.bits_per_weight / 8)


def random_weight(scheme: Scheme, inputs: int, outputs: int, layers: int) -> Any:
    """The same random weights for each layer, but in places of their own."""
    weight = np.random.default_rng(0).standard_normal((outputs, inputs), dtype=np.float32)
    one = pack_weight(weight, scheme)
    packed = aligned_zeros((layers * len(one), *one.shape[1:]), np.uint8)
    packed.reshape(layers, *one.shape)[:] = one
    return packed


def seconds(calls: Calls) -> float:
    """Time of some calls one after the other."""
    begin = time.perf_counter()
    for function, arguments in calls:
        function(*arguments)
    return time.perf_counter() - begin


def compare(ours: Contender, base: Contender, given: argparse.Namespace) -> dict[str, float]:
    """Two contenders that take turns: speeds and their ratios, see `summary`."""
    decode: list[tuple[float, float]] = []
    prefill: list[tuple[float, float]] = []
    for i in range(given.rounds + WARM_UP):
        # Either goes first as often as the other.
        order = (ours, base) if i % 2 else (base, ours)
        one = {id(each): seconds(each.decode[i % len(each.decode)]) for each in order}
        many = {id(each): seconds(each.prefill) for each in order}
        if i >= WARM_UP:
            decode.append((one[id(ours)] / ours.piece_bytes, one[id(base)] / base.piece_bytes))
            prefill.append((many[id(ours)] / given.tokens, many[id(base)] / given.tokens))
    return {
        **{f"decode_{name}": value for name, value in summary(decode).items()},
        **{f"prefill_{name}": value for name, value in summary(prefill).items()},
    }


def summary(seconds_each: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of seconds for one unit of work, ours and the base's in each round: speed and ratios of speeds."""
    ratios = [base / ours for ours, base in seconds_each]
    quickest = [statistics.quantiles(column, n=10)[0] for column in zip(*seconds_each, strict=True)]
    return {
        "speed": 1 / quickest[0],
        "ratio": statistics.median(ratios),
        "quiet_ratio": quickest[1] / quickest[0],
    }


def measure(given: argparse.Namespace) -> dict[int, dict[str, dict[str, float]]]:
    """By threads, then by scheme: what `compare` finds."""
    level = choose_level(given.instructions)
    counts = [int(word) for word in given.threads.split(",")]
    found: dict[int, dict[str, dict[str, float]]] = {count: {} for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        base = contender(get_scheme(given.base), level, given, Path(folder))
        for name in given.schemes.split(","):
            if name == given.base:
                continue
            ours = contender(get_scheme(name), level, given, Path(folder))
            for count in counts:
                for each in (ours, base):
                    use_threads(each.library, count)
                found[count][name] = compare(ours, base, given)
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = ",".join(scheme.name for scheme in SCHEMES.values() if scheme.grouped)
    parser.add_argument("--schemes", default=known)
    parser.add_argument("--base", default="q4a-g32")
    parser.add_argument("--instructions", default="auto")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--megabytes", type=int, default=96)
    parser.add_argument("--piece", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given)
    if given.json:
        print(json.dumps({"base": given.base, "threads": found}, indent=2))
        return
    for count, rows in found.items():
        print(f"threads: {count}; ratios to {given.base}")
        print("                          decode: ratio   quiet   GB/s   prompt: ratio   quiet")
        for name, row in rows.items():
            print(
                f"  {name:9s} {get_scheme(name).bits_per_weight:4.1f} bits "
                f"{row['decode_ratio']:14.3f} {row['decode_quiet_ratio']:7.3f} "
                f"{row['decode_speed'] / 1e9:6.1f} {row['prefill_ratio']:15.3f} "
                f"{row['prefill_quiet_ratio']:7.3f}"
            )


if __name__ == "__main__":
    main()
