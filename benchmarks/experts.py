"""What routed experts cost while decoding: none active, one active, and many loaded.

    python benchmarks/experts.py [--model smollm2-135m] [--quantizer q4a-g32] [--kv-cache f16]
                                 [--instructions auto] [--rank 16] [--layer 8] [--few 8] [--many 64]
                                 [--threads 1,2] [--context 64] [--rounds 300] [--json]

Compiles the model three times: without experts, with a few, and with many, all of random deltas on
`attention.qkv` and `feed_forward.down` from one layer on. A router of the size of a real one (queries, 64
keys, softmax, the ranks of all pairs, a product with the experts) works at that layer; its result counts for
nothing, and the prior alone says which expert works, so that each model decodes with none and with one.
The models take turns token by token, all on the same weights. A ratio is the median over the rounds of a
pass's time by that of the base model's pass in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gem_host.target import LIBRARY, HostTarget
from gemcore.compiler.export import export_decoder
from gemcore.models import ops
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.config import ModelConfig
from gemcore.models.decoder import ExpertShape
from gemcore.models.layout import weight_units
from gemcore.models.routed import routed_weights
from gemcore.models.sources import load_checkpoint
from gemcore.options import parse_words
from gemcore.plugins import get_host
from gemcore.runtime.executor import NativeExecutor
from gemcore.runtime.kv_cache import KVCache

KEYS = 64
"""Keys that the router compares a token with, and the size of its queries."""

UNITS = ("attention.qkv", "feed_forward.down")


class LikeARouter(nn.Module):
    """As much work as a router does, and then the prior's own numbers."""

    def __init__(self, hidden: int, experts: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = {"query": (hidden, KEYS), "keys": (KEYS, KEYS), "values": (KEYS, experts)}
        for name, size in sizes.items():
            values = torch.randn(size, generator=generator) / size[0] ** 0.5
            self.register_parameter(name, nn.Parameter(values))

    def forward(self, hidden: Tensor, prior: Tensor) -> Tensor:
        """`hidden` `[tokens, hidden]`, `prior` `[tokens, experts]`: the prior, with some work."""
        scores = ops.linear_f32(ops.linear_f32(hidden, self.query), self.keys)
        mass = torch.softmax(scores, dim=-1)
        above = (mass[:, None, :] > mass[:, :, None]).float() * mass[:, None, :]
        kept = torch.where(above.sum(-1) < 0.9, mass, torch.zeros_like(mass))
        # Far below anything that a float32 could be changed by.
        return prior * (1 + ops.linear_f32(kept, self.values).abs() * 1e-30)


class Model:
    """One compiled model with a text in its cache."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        schemes: Mapping[str, str],
        weights: Mapping[str, np.ndarray],
        experts: int,
        given: argparse.Namespace,
        folder: Path,
    ) -> None:
        config = checkpoint.config
        routing: dict[str, Any] = {}
        if experts:
            shape = expert_shape(config, experts, given.rank, given.layer)
            router = [None] * config.layers
            router[given.layer] = LikeARouter(config.hidden_size, experts)
            routing = {"router": router, "experts": shape}
            weights = routed_weights(weights, shape, random_deltas(config, shape), router)
        exported = export_decoder(config, schemes, cache=given.kv_cache, **routing)
        folder.mkdir()
        target = HostTarget(instructions=given.instructions)
        target.build(exported, config, folder)
        arrays = [weights[name] for name in exported.weights]
        self.executor = NativeExecutor(folder / LIBRARY, arrays, 1)
        self.experts, self.context = experts, given.context
        self.cache = KVCache(config, given.context + 16, given.kv_cache)
        tokens = np.arange(1, given.context + 1, dtype=np.int32)
        self._run(tokens, 0, None)

    def decode(self, active: int | None) -> float:
        """Seconds of one token behind the text, with expert `active` or with none."""
        begin = time.perf_counter()
        self._run(np.ones(1, np.int32), self.context, active)
        return time.perf_counter() - begin

    def _run(self, tokens: np.ndarray, start: int, active: int | None) -> None:
        count = len(tokens)
        placement = np.zeros((count, 5), np.int32)
        placement[:, :2] = np.arange(start, start + count, dtype=np.int32)[:, None]
        prior = np.zeros((count, self.experts), np.float32) if self.experts else None
        if prior is not None and active is not None:
            prior[:, active] = 1
        self.executor.forward(tokens, placement, np.array([count - 1], np.int32), self.cache, prior)


def expert_shape(config: ModelConfig, experts: int, rank: int, layer: int) -> ExpertShape:
    """Experts on some units of the layers from `layer` on."""
    names = tuple(f"expert-{i}" for i in range(experts))
    units = [f"layers.{i}.{unit}" for i in range(layer, config.layers) for unit in UNITS]
    return ExpertShape(names=names, rank=rank, layers=frozenset(units))


def random_deltas(config: ModelConfig, experts: ExpertShape) -> dict[str, np.ndarray]:
    """Small random deltas, float16."""
    generator = np.random.default_rng(0)
    found = {}
    for unit in weight_units(config):
        if unit.name in experts.layers:
            outputs, inputs = unit.shape
            for part, size in (("down", (inputs, experts.rank)), ("up", (experts.rank, outputs))):
                values = generator.standard_normal((len(experts.names), *size), dtype=np.float32)
                found[f"{unit.name}.{part}"] = (values * 0.02).astype(np.float16)
    return found


def compare(models: Mapping[str, Model], threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a token, and median ratio to the base model, for each way to decode."""
    from gemcore.runtime.tvm_runtime import use_threads

    for model in models.values():
        use_threads(model.executor.library, threads)
    ways = {"base": (models["base"], None)}
    for name in ("few", "many"):
        ways |= {f"{name}, none": (models[name], None), f"{name}, one": (models[name], 3)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    names = list(ways)
    for i in range(rounds + 5):
        for way in names[i % len(names) :] + names[: i % len(names)]:
            model, active = ways[way]
            taken = model.decode(active)
            if i >= 5:
                seconds[way].append(taken)
    return {
        way: {
            "ms": statistics.median(taken) * 1e3,
            "ratio": statistics.median(
                own / base for own, base in zip(taken, seconds["base"], strict=True)
            ),
        }
        for way, taken in seconds.items()
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--quantizer", default="q4a-g32")
    parser.add_argument("--kv-cache", default="f16")
    parser.add_argument("--instructions", default="auto")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=64)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    host = get_host()
    checkpoint = load_checkpoint(given.model, host)
    quantizer = host.create(host.select("quantizer", parse_words(given.quantizer)))
    plan = quantizer.plan(checkpoint)
    weights, _ = quantizer.apply(checkpoint, plan)
    counts = {"base": 0, "few": given.few, "many": given.many}
    with tempfile.TemporaryDirectory() as folder:
        models = {
            name: Model(checkpoint, plan.schemes(), weights, count, given, Path(folder) / name)
            for name, count in counts.items()
        }
        threads = [int(word) for word in given.threads.split(",")]
        found = {count: compare(models, count, given.rounds) for count in threads}
    if given.json:
        print(json.dumps({"experts": counts, "threads": found}, indent=2))
        return
    for count, ways in found.items():
        print(f"threads: {count}; few = {given.few} experts, many = {given.many}")
        for way, numbers in ways.items():
            print(
                f"  {way:12s} {numbers['ms']:7.3f} ms a token, {numbers['ratio']:6.3f} of the base"
            )


if __name__ == "__main__":
    main()
