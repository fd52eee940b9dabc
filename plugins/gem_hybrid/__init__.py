"""GEM's hybrid quantizer: every weight has its own precision, from what rounding it costs."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import Option, QuantizerRecord

OPTIONS = (
    Option(name="budget", type=str, help="bytes of all weights: 80MB, 76MiB, 80000000"),
    Option(name="bits", type=float, minimum=0, above_minimum=True, help="mean bits a weight"),
    Option(
        name="max_kl",
        type=float,
        minimum=0,
        above_minimum=True,
        help="expected KL from the float model, in nats a token; then bytes are made few",
    ),
    Option(name="latency", type=str, help="time of a token on a device: 20ms, 0.02s"),
    Option(name="device", type=str, help="the target that the latency is meant on"),
    Option(
        name="bandwidth", type=str, help="bytes a second of its memory: 12GB; else the target's"
    ),
    Option(name="plan", type=str, help="a plan that `gem quantize -o` wrote, instead of a limit"),
    Option(
        name="schemes",
        type=str,
        help="schemes to choose among, with spaces between; else the best of each size",
    ),
    Option(
        name="kv_cache",
        type=str,
        choices=("auto", "f16", "q8"),
        help="also plan how keys and values are cached; else as --kv-cache says",
    ),
    Option(
        name="context",
        type=int,
        minimum=1,
        help="tokens whose keys and values count; as many as the model can attend to, if not given",
    ),
    Option(
        name="experts",
        type=str,
        help="a set of experts that counts in the budget, with its router: its name or folder",
    ),
    Option(name="calibration", type=str, help="a text file (or .jsonl); else GEM's own short text"),
    Option(
        name="tokens", type=int, default=8192, minimum=512, help="calibration tokens used at most"
    ),
    Option(
        name="rounding",
        type=str,
        default="calibrated",
        choices=("calibrated", "nearest"),
        help="how codes are chosen: with error feedback (GPTQ), or each to the nearest",
    ),
    Option(
        name="damping",
        type=float,
        minimum=0,
        maximum=10,
        help="of the calibrated rounding, in parts of the mean Hessian diagonal; else by the text",
    ),
    Option(
        name="bands",
        type=int,
        default=3,
        minimum=1,
        maximum=6,
        help="parts of embedding and head, of frequent and of rare tokens, each with its precision",
    ),
)


@hookimpl
def gem_quantizers() -> Iterator[QuantizerRecord]:
    """Yield the hybrid quantizer."""
    yield QuantizerRecord(
        name="hybrid",
        summary="a precision for each weight: least loss within budget, bits, max_kl or latency",
        loader="gem_hybrid.quantizer:hybrid",
        reference_url="https://arxiv.org/abs/2210.17323",
        options=OPTIONS,
        capabilities=frozenset({"calibrated", "mixed-precision", "lossless-repacking"}),
    )
