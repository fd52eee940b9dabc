"""The parts of a model that an Ethos-U runs, as integer arithmetic, from a bundle's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from gem_ethos.arithmetic import FeedForward, Floats, Ints, Linear, make_feed_forward, make_linear
from gem_ethos.calibration import Seen, calibration_tokens, observe
from gemcore.bundle import WEIGHTS
from gemcore.compiler.packed_weights import packed_weights
from gemcore.models.layout import EMBEDDING, norm_sources, weight_units
from gemcore.packing import unpack_weight
from gemcore.runtime.mapped_weights import map_weights

if TYPE_CHECKING:
    from gemcore.compiler.export import ExportedDecoder
    from gemcore.models.config import ModelConfig

FEED_FORWARD = "feed_forward"


@attrs.frozen(kw_only=True, eq=False)
class Part:
    """One command stream.

    Attributes:
        name: of the module of the decoder that it stands for.
        code: what it computes.
        sample: int8 `[1, in]`: what the last token of the calibration text gives it.
        in_scale, out_scale: what one step of its in- and outputs means.
    """

    name: str
    code: Linear | FeedForward
    sample: Ints
    in_scale: float
    out_scale: float

    def arrays(self) -> dict[str, Ints]:
        """What `gem_ethos.graphs` makes a graph of."""
        own = self.code.arrays("linear") if isinstance(self.code, Linear) else self.code.arrays()
        return {"x": self.sample, **own}


def model_parts(exported: ExportedDecoder, config: ModelConfig, folder: Path) -> Iterator[Part]:
    """The parts of a model, whose weights and tokenizer lie in `folder`, in order of their use."""
    values = dict(
        zip(exported.weights, map_weights(folder / WEIGHTS, exported.weights), strict=True)
    )
    packed = packed_weights(exported)
    weights: dict[str, Floats] = {}
    biases: dict[str, Floats] = {}
    for unit in weight_units(config):
        # Layers with experts keep the weight one level further down.
        prefix = next(p for p in (unit.name, f"{unit.name}.base") if f"{p}.packed" in values)
        scheme = packed[f"{prefix}.packed"].scheme
        weights[unit.name] = unpack_weight(values[f"{prefix}.packed"], scheme, unit.shape[0])
        if f"{prefix}.bias" in values:
            biases[unit.name] = values[f"{prefix}.bias"]
    gains = {name: values[name] for name in norm_sources(config)}
    seen = observe(config, weights, biases, gains, calibration_tokens(folder, config))
    for name in ordered_names(config):
        if name.endswith(FEED_FORWARD):
            yield feed_forward(name, weights, seen)
        else:
            yield linear(name, weights[name], biases.get(name), seen[name])


def ordered_names(config: ModelConfig) -> list[str]:
    """The modules that become parts."""
    names = []
    for i in range(config.layers):
        names += [f"layers.{i}.attention.{part}" for part in ("qkv", "out")]
        names.append(f"layers.{i}.{FEED_FORWARD}")
    return [*names, EMBEDDING if config.tied_head else "head"]


def linear(name: str, weight: Floats, bias: Floats | None, seen: Seen) -> Part:
    """A product, with or without bias."""
    given, made = step(seen.inputs), step(seen.outputs)
    return Part(
        name=name,
        code=make_linear(weight, given, made, bias),
        sample=as_codes(seen.inputs[-1:], given),
        in_scale=given,
        out_scale=made,
    )


def feed_forward(name: str, weights: Mapping[str, Floats], seen: Mapping[str, Seen]) -> Part:
    """A whole feed-forward part."""
    wide, narrow = seen[f"{name}.gate_up"], seen[f"{name}.down"]
    gate, up = np.split(wide.outputs, 2, axis=1)
    given, made = step(wide.inputs), step(narrow.outputs)
    scales = (given, step(gate), step(up), step(narrow.inputs), made)
    return Part(
        name=name,
        code=make_feed_forward(weights[f"{name}.gate_up"], weights[f"{name}.down"], scales),
        sample=as_codes(wide.inputs[-1:], given),
        in_scale=given,
        out_scale=made,
    )


def step(values: Floats) -> float:
    """What one step of int8 means, so that the largest value seen is the last one."""
    return max(float(np.abs(values).max()), 1e-6) / 127


def as_codes(values: Floats, scale: float) -> Ints:
    """Values as int8."""
    codes: Ints = np.clip(np.rint(values / np.float32(scale)), -127, 127).astype(np.int8)
    return codes
