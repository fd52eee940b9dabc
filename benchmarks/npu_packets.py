"""Packets a token on the emulated Hexagon processor, kernel by kernel: a deterministic cost, never a time.

    python benchmarks/npu_packets.py --router none

Compiles the default model for the target `npu` (or takes it from the cache), reads a prompt of 32 tokens and
generates 8, and prints what qemu counted in each kernel, for prefill and decode by themselves. At the end
it holds the bundle's report against that: how many of a generated token's multiply-accumulates belong to
operations whose kernels executed as many vector instructions as they take at least.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from gem_npu.counting import VARIABLE, Counts, read_counts, since, total
from gemcore.api import load, open_session
from gemcore.prediction import ATTENTION, COUNTED_CONTEXT
from gemcore.reports import DelegationReport
from gemcore.session import Session

TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. The river that flows through "
    "Rome is called the Tiber, which rises in the Apennines and reaches the sea"
)
PROMPT, ANSWER = 32, 8
MOST_VECTORS = 128
"""Multiply-accumulates of one vector instruction."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--router", default="none")
    parser.add_argument("--quantizer", default="q4a-g32")
    parser.add_argument("--kv-cache", default="auto")
    parser.add_argument("--bundle", type=Path, help="a bundle that is compiled already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counted = Path(folder) / "counts"
        os.environ[VARIABLE] = str(counted)
        session = _session(arguments)
        tokens = session.encode_prompt(TEXT, chat=False)[:PROMPT]
        session.forget()
        session.feed(tokens)
        first = read_counts(counted)
        _print("prefill", first, len(tokens))
        for token in tokens[:ANSWER]:
            session.feed([token])
        answer = since(read_counts(counted), first)
        _print("decode", answer, ANSWER)
        _compare(DelegationReport.from_json(session.bundle.manifest.delegation), answer)


def _session(arguments: argparse.Namespace) -> Session:
    if arguments.bundle is not None:
        return open_session(arguments.bundle)
    return load(
        arguments.model,
        router=arguments.router,
        quantizer=arguments.quantizer,
        target="npu",
        kv_cache=arguments.kv_cache,
    )


def _compare(report: DelegationReport, counts: dict[str, Counts]) -> None:
    """The share of HVX by the report, and by what was counted of the generated tokens."""
    context = PROMPT + (ANSWER + 1) / 2
    work: dict[str, float] = {}
    done = 0.0
    for operation in report.operations:
        # A report counts attention at a context of its own.
        attends = operation.operation in ATTENTION
        share = context / COUNTED_CONTEXT if attends else 1.0
        each = operation.multiply_accumulates * share
        work[operation.unit] = work.get(operation.unit, 0.0) + each
        kernels = [c for name, c in counts.items() if name.startswith(operation.operation)]
        vectors = sum(count.vectors for count in kernels) / ANSWER
        done += each if vectors * MOST_VECTORS >= each else 0.0
    print(
        f"multiply-accumulates on {report.unit}: {report.share():.1%} by the bundle's report, at a context "
        f"of {COUNTED_CONTEXT}; at this one of {context:g} {work[report.unit] / sum(work.values()):.1%} by "
        f"the report and {done / sum(work.values()):.1%} by qemu's count of vector instructions"
    )


def _print(name: str, counts: dict[str, Counts], tokens: int) -> None:
    print(f"{name}: a token takes (emulated, not a time)")
    print(f"{'kernel':40} {'calls':>7} {'packets':>12} {'instructions':>13} {'HVX':>11}")
    rows = sorted(counts.items(), key=lambda item: -item[1].packets)
    for kernel, count in [*rows, ("all", total(counts))]:
        print(
            f"{kernel:40} {count.calls / tokens:7.1f} {count.packets / tokens:12,.0f} "
            f"{count.instructions / tokens:13,.0f} {count.vectors / tokens:11,.0f}"
        )


if __name__ == "__main__":
    main()
