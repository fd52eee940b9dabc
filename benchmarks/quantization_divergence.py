"""The KL divergence of quantized models from the float model, beside llama.cpp's, on texts.

    python benchmarks/quantization_divergence.py TEXT... --work DIR [--bits 4.5,6]
        [--nearest q4s-g32] [--peers Q4_K_M,Q4_0 --peer-python PYTHON]

The model is first rotated, and its norms' gains are folded (`gem_hybrid.rotation`), so that nobody's grid is
favoured by what the file was rounded with. Then it is quantized by `hybrid` at each size, by `hybrid` with a
single precision, to the nearest, and by llama.cpp's own quantizer, of which the dequantized weights are
measured. Only weights are rounded; `--compiled` also measures with activations in 8 bits, as compiled models
have them. What was measured is kept in the work folder, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import attrs
import gguf
import numpy as np
import numpy.typing as npt
import torch
from divergence_table import Result, report

import gem_hybrid
from gem_hybrid.calibration import WINDOW
from gem_hybrid.divergence import (
    WeightSource,
    final_states,
    float_source,
    packed_source,
    token_divergences,
)
from gem_hybrid.gguf_export import permuted_heads, write_float_gguf
from gem_hybrid.limits import read_schemes
from gem_hybrid.quantizer import HybridQuantizer, hybrid
from gem_hybrid.rotation import rotated
from gem_hybrid.sensitivity import VERSION
from gem_hybrid.statistics import measure_inputs
from gemcore.cache import write_atomically
from gemcore.cli.evaluate import read_texts
from gemcore.errors import GemError
from gemcore.formats.gguf import gguf_name, load_gguf, unpermute_rows
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import EMBEDDING, HEAD, vocabulary_weight, weight_units
from gemcore.models.sources import load_checkpoint
from gemcore.models.weights import Weights, banded, pack_checkpoint
from gemcore.plugins import get_host
from gemcore.recipe import DEFAULT_MODEL
from gemcore.reports import Plan, PlanEntry
from gemcore.schemes import get_scheme
from gemcore.text.tokenizer import Tokenizer

PEERS = ("Q3_K_M", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
Windows = list[tuple[int, ...]]


@attrs.frozen(kw_only=True, eq=False)
class Quantized:
    """A quantized model, ready to be measured.

    Attributes:
        bytes: of all its weights.
        source: gives a unit's values.
        rounds: units whose inputs the compiled model rounds to 8 bits.
    """

    bytes: int
    source: WeightSource
    rounds: frozenset[str] = frozenset()


def windows_of(path: Path, checkpoint: Checkpoint, tokens: int) -> Windows:
    """Windows of a text file at even distances, `tokens` tokens in all."""
    tokenizer = Tokenizer.from_text_data(checkpoint.text)
    ids = [i for text in read_texts(path) for i in tokenizer.encode_prompt(text)]
    count = tokens // WINDOW
    if len(ids) < count * WINDOW:
        raise GemError(f"{path} has {len(ids)} tokens, fewer than {count * WINDOW}")
    step = (len(ids) - WINDOW) // max(1, count - 1)
    return [tuple(ids[i * step : i * step + WINDOW]) for i in range(count)]


def by_gem(checkpoint: Checkpoint, plan: Plan, weights: Weights) -> Quantized:
    """A model that one of GEM's quantizers has packed."""
    schemes = plan.schemes()
    source = packed_source(banded(checkpoint, plan), schemes, weights)
    grouped = frozenset(
        vocabulary_weight(name) or name
        for name, scheme in schemes.items()
        if get_scheme(scheme).grouped
    )
    size = sum(weights[f"{name}.packed"].nbytes for name in schemes)
    return Quantized(bytes=size, source=source, rounds=grouped)


def by_hybrid(checkpoint: Checkpoint, maker: HybridQuantizer, kept: Path) -> Quantized:
    """A model at the size that the quantizer was made for; packed weights are kept in a file."""
    plan = maker.plan(checkpoint)
    if not kept.exists():
        weights, _ = maker.apply(checkpoint, plan)
        packed: dict[str, Any] = {
            name: weights[name] for name in weights if name.endswith(".packed")
        }
        with write_atomically(kept) as file:
            np.savez(file, **packed)
    with np.load(kept, allow_pickle=False) as stored:
        return by_gem(checkpoint, plan, {name: stored[name] for name in stored.files})


def uniform_plan(checkpoint: Checkpoint, scheme: str) -> Plan:
    """The same precision for all weights."""
    units = weight_units(checkpoint.config)
    entries = [PlanEntry(unit=u.name, scheme=scheme, reason="uniform", bytes=0) for u in units]
    return Plan(quantizer=scheme, entries=tuple(entries))


def by_nearest(checkpoint: Checkpoint, scheme: str) -> Quantized:
    """Each weight rounded to the nearest code."""
    plan = uniform_plan(checkpoint, scheme)
    return by_gem(checkpoint, plan, pack_checkpoint(checkpoint, plan)[0])


def by_single(checkpoint: Checkpoint, maker: HybridQuantizer, scheme: str) -> Quantized:
    """One precision for all weights, rounded with calibration."""
    plan = uniform_plan(checkpoint, scheme)
    return by_gem(checkpoint, plan, maker.apply(checkpoint, plan)[0])


def by_file(checkpoint: Checkpoint, path: Path) -> Quantized:
    """What llama.cpp made: the dequantized weights of a GGUF file, and their bytes in it."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    units = {unit.name: unit for unit in weight_units(checkpoint.config)}
    heads = permuted_heads(checkpoint.config)

    def values(name: str) -> npt.NDArray[np.float32]:
        tensor = tensors[gguf_name(name)]
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        count = heads.get(name.split(".")[-2])
        return found if count is None else unpermute_rows(found, count)

    def source(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([values(part) for part in units[name].sources]))

    names = [part for unit in units.values() for part in unit.sources]
    return Quantized(bytes=sum(tensors[gguf_name(n)].n_bytes for n in names), source=source)


def importance_file(checkpoint: Checkpoint, maker: HybridQuantizer, path: Path) -> Path:
    """llama.cpp's importance matrix, of the text that GEM calibrates with."""
    if path.exists():
        return path
    windows = maker.calibration(checkpoint).windows
    units = {unit.name: unit for unit in weight_units(checkpoint.config)}
    found: dict[str, Any] = {}
    for name, (hessian,) in measure_inputs(checkpoint, (windows,), set(units) - {EMBEDDING}):
        for tensor in units[name].sources:
            found[gguf_name(tensor)] = hessian.diagonal().numpy().copy()
    with write_atomically(path) as file:
        np.savez(file, **found)
    return path


def llama_file(given: argparse.Namespace, float_file: Path, name: str, matrix: Path | None) -> Path:
    """llama.cpp's quantization of the float model; GemError where its quantizer fails."""
    path = float_file.with_name(f"fair-{name}{'' if matrix is None else '-imatrix'}.gguf")
    if not path.exists():
        script = Path(__file__).with_name("llama_quantize.py")
        part = path.with_suffix(".part")
        words = [given.peer_python, script, float_file, part, name]
        words += [] if matrix is None else [matrix]
        done = subprocess.run(
            [str(word) for word in words], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise GemError(f"llama.cpp cannot make {name}: {done.stderr.strip()[-300:]}")
        part.rename(path)
    return path


class Measure:
    """Measures models on the same windows.

    Args:
        checkpoint: the float model.
        texts: windows of each text.
        work: folder in which what was measured is kept.
        compiled: also measure with the roundings of a compiled model.
    """

    def __init__(
        self, checkpoint: Checkpoint, texts: dict[str, Windows], work: Path, compiled: bool
    ) -> None:
        self._checkpoint, self._texts, self._work = checkpoint, texts, work
        self._compiled = compiled
        self._windows = [window for windows in texts.values() for window in windows]
        self._head = EMBEDDING if checkpoint.config.tied_head else HEAD
        self._base = cache(self._float_states)

    def __call__(self, name: str, make: Callable[[], Quantized], key: object = None) -> Result:
        """The divergences of a model that `make` makes, where they are not kept already."""
        content = [self._checkpoint.identity, self._windows, name, key, self._compiled]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        path = self._work / f"kl-{digest}.npz"
        if not path.exists():
            print(f"measuring {name}", file=sys.stderr, flush=True)
            model = make()
            values: dict[str, Any] = {"alone": self._divergences(model, ())}
            if self._compiled:
                values["compiled"] = self._divergences(model, model.rounds)
            with write_atomically(path) as file:
                np.savez(file, bytes=model.bytes, **values)
        with np.load(path, allow_pickle=False) as file:
            shape = (len(self._texts), -1, WINDOW)
            return Result(
                name=name,
                bytes=int(file["bytes"]),
                kl=file["alone"].reshape(shape),
                compiled=file["compiled"].reshape(shape) if self._compiled else None,
            )

    def _states(self, source: WeightSource, rounds: Collection[str] = ()) -> list[torch.Tensor]:
        cached = "f16" if rounds else None
        return final_states(
            self._checkpoint, source, self._windows, rounds=rounds, cache=cached, head=self._head
        )

    def _float_states(self) -> list[torch.Tensor]:
        """What the float model's head reads: kept, since every run needs it."""
        content = json.dumps([self._checkpoint.identity, self._windows])
        path = self._work / f"float-{hashlib.sha256(content.encode()).hexdigest()[:16]}.npy"
        if not path.exists():
            states = torch.stack(self._states(float_source(self._checkpoint)))
            with write_atomically(path) as file:
                np.save(file, states.numpy(), allow_pickle=False)
        return list(torch.from_numpy(np.load(path, allow_pickle=False)))

    def _divergences(self, model: Quantized, rounds: Collection[str]) -> npt.NDArray[np.float64]:
        states = self._states(model.source, rounds)
        heads = float_source(self._checkpoint)(self._head), model.source(self._head)
        found = torch.cat(list(token_divergences(self._base(), states, heads)))
        return np.asarray(found.numpy())


def run(given: argparse.Namespace) -> str:
    """Quantize and measure all that was asked for; returns the tables."""
    given.work.mkdir(parents=True, exist_ok=True)
    float_file = given.work / "fair-f32.gguf"
    if not float_file.exists():
        write_float_gguf(float_file, rotated(load_checkpoint(given.model, get_host())))
    fair = load_gguf(float_file)
    texts = {path.parent.name: windows_of(path, fair, given.tokens) for path in given.texts}
    measure = Measure(fair, texts, given.work, given.compiled)
    defaults = {option.name: option.default for option in gem_hybrid.OPTIONS}
    defaults |= {"calibration": given.calibration, "schemes": given.schemes}

    def made(bits: float) -> HybridQuantizer:
        return hybrid(**(defaults | {"bits": bits}))

    def peer(name: str, matrix: Path | None) -> Quantized:
        if matrix is not None:
            importance_file(fair, made(4.5), matrix)
        return by_file(fair, llama_file(given, float_file, name, matrix))

    results = [
        measure(f"llama.cpp {name}{words}", partial(peer, name, matrix))
        for words, matrix, names in (
            ("", None, given.peers),
            (", importance matrix", given.work / "imatrix.npz", given.imatrix),
        )
        for name in names
    ]
    key = [made(4.5).calibration(fair).digest, VERSION, *read_schemes(given.schemes)]
    results += [measure(f"nearest, {s}", partial(by_nearest, fair, s)) for s in given.nearest]
    results += [
        measure(f"one precision, {s}", partial(by_single, fair, made(4.5), s), key)
        for s in given.single
    ]
    version = hashlib.sha256(json.dumps([fair.identity, key]).encode()).hexdigest()[:16]
    for bits in given.bits:
        kept = given.work / f"hybrid-{bits:g}-{version}.npz"
        make = partial(by_hybrid, fair, made(bits), kept)
        results.append(measure(f"hybrid, {bits:g} bits", make, key))
    weights = sum(unit.parameters for unit in weight_units(fair.config))
    return report(results, list(texts), weights)


def _items(kind: Callable[[str], Any], words: str) -> list[Any]:
    return [kind(word) for word in words.split(",") if word]


def main(arguments: Sequence[str]) -> int:
    """Print the tables; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--work", type=Path, required=True, help="keeps models and results")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=1024, help="of each text")
    parser.add_argument("--calibration", help="a text file, else GEM's own text")
    parser.add_argument("--schemes", help="that hybrid chooses among, with spaces; else all")
    parser.add_argument("--peer-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--compiled", action="store_true", help="also with 8-bit activations")
    lists: dict[str, tuple[str, Callable[[str], Any], str]] = {
        "--bits": ("4.5", float, "sizes of hybrid's models, in bits a weight"),
        "--nearest": ("", str, "schemes, for all weights, rounded to the nearest"),
        "--single": ("", str, "schemes, for all weights, rounded with calibration"),
        "--peers": ("", str, f"llama.cpp's: {','.join(PEERS)}; they need --peer-python"),
        "--imatrix": ("", str, "the same, with an importance matrix"),
    }
    for option, (default, kind, words) in lists.items():
        parser.add_argument(option, default=default, type=partial(_items, kind), help=words)
    given = parser.parse_args(arguments)
    unknown = {*given.peers, *given.imatrix} - {*PEERS}
    if unknown:
        parser.error(f"llama.cpp has no {', '.join(sorted(unknown))}: choose of {', '.join(PEERS)}")
    if (given.peers or given.imatrix) and given.peer_python is None:
        parser.error("--peers and --imatrix need --peer-python")
    try:
        print(run(given))
    except GemError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
