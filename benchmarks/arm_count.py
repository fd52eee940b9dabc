"""Count the instructions a token of GEM and of llama.cpp for the processor of a Raspberry Pi 4.

Both read the same GGUF file (Q4_1) and run on one thread of an emulated Cortex-A72; QEMU counts. The
numbers are instructions, never milliseconds. llama.cpp comes from the source package of llama-cpp-python and
is compiled for the same processor, which takes some minutes the first time. With `--products-only` just its
products of weights and activations are compiled and counted, in seconds: llama.cpp needs more than those.

    python benchmarks/arm_count.py --bundle rpi4.gem --model smollm2-135m.gguf --work build/llamacpp
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import attrs
from arm_instructions import llamacpp
from arm_instructions.counting import PerToken, counter, executed, per_token

from gem_arm.libraries import runtime_folder
from gem_arm.linux import LIBRARY, raspberry_pi_4
from gem_arm.runner import RUNNER
from gemcore.bundle import WEIGHTS, open_bundle
from gemcore.runtime.plan import PLAN, bundle_plan

TARGET_RATIO = 0.8
"""At most so many of llama.cpp's instructions, says the bar."""


def main() -> int:
    """Count, print a table or JSON, and fail where GEM needs more than the bar allows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--bundle", type=Path, required=True, help="made by gem compile --target rpi4"
    )
    parser.add_argument("--model", type=Path, help="the GGUF file; without it GEM alone is counted")
    parser.add_argument("--work", type=Path, default=Path("build/llamacpp"))
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--products-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    plugin = counter(given.work)
    counts = {"gem": _gem(given, plugin)}
    if given.model is not None:
        counts["llama.cpp"] = (_llama_products if given.products_only else _llama)(given, plugin)
    return _report(given, counts)


def _gem(given: argparse.Namespace, plugin: Path) -> PerToken:
    bundle, board = open_bundle(given.bundle), raspberry_pi_4()
    folder = given.bundle.absolute()
    plan = given.work.absolute() / PLAN
    plan.write_text(bundle_plan(bundle, str(folder / LIBRARY), str(folder / WEIGHTS), 1))
    program = [str(folder / RUNNER), "count", str(plan)]
    libraries = runtime_folder()

    def count(prompt: int, new: int) -> int:
        return executed(plugin, board.cpu, [*program, str(prompt), str(new)], libraries)

    return per_token(count, given.prompt_tokens, given.new_tokens)


def _llama(given: argparse.Namespace, plugin: Path) -> PerToken:
    cpu = raspberry_pi_4().cpu
    program = [str(llamacpp.build(given.work.absolute(), cpu)), str(given.model)]

    def count(prompt: int, new: int) -> int:
        return executed(plugin, cpu, [*program, str(prompt), str(new)])

    return per_token(count, given.prompt_tokens, given.new_tokens)


def _llama_products(given: argparse.Namespace, plugin: Path) -> PerToken:
    """Instructions of llama.cpp's products alone, of the rows that this file has; a lower bound.

    Prefill is without the output head, which a prompt needs only once.
    """
    from gguf import GGUFReader

    cpu = raspberry_pi_4().cpu
    program = str(llamacpp.build_products(given.work.absolute(), cpu))
    rows: dict[tuple[str, int, bool], int] = {}
    for tensor in GGUFReader(given.model).tensors:
        kind = tensor.tensor_type.name.lower()
        if len(tensor.shape) == 2 and kind.startswith("q"):
            key = (kind, int(tensor.shape[0]), tensor.name == "token_embd.weight")
            rows[key] = rows.get(key, 0) + int(tensor.shape[1])

    def each(kind: str, values: int) -> float:
        few, many = (
            executed(plugin, cpu, [program, kind, str(values), str(count)])
            for count in (1000, 3000)
        )
        return (many - few) / 2000

    # The embedding is the output head as well, where there is none of its own.
    cost = {key: each(key[0], key[1]) * count for key, count in rows.items()}
    head = sum(value for (_, _, is_head), value in cost.items() if is_head)
    return PerToken(prefill=sum(cost.values()) - head, decode=sum(cost.values()))


def _report(given: argparse.Namespace, counts: dict[str, PerToken]) -> int:
    gem, other = counts["gem"], counts.get("llama.cpp")
    ratios = None
    if other is not None:
        ratios = PerToken(prefill=gem.prefill / other.prefill, decode=gem.decode / other.decode)
    if given.json:
        values = {name: attrs.asdict(count) for name, count in counts.items()}
        values |= {} if ratios is None else {"ratio": attrs.asdict(ratios)}
        print(json.dumps(values, indent=2))
    else:
        if given.products_only:
            print(
                "llama.cpp's products of weights and activations alone, without all the rest of it"
            )
        print(f"{'millions of instructions a token':<34} {'prefill':>9} {'decode':>9}")
        for name, count in counts.items():
            print(f"{name:<34} {count.prefill / 1e6:>9.2f} {count.decode / 1e6:>9.2f}")
        if ratios is not None:
            print(f"{'GEM relative to llama.cpp':<34} {ratios.prefill:>9.2f} {ratios.decode:>9.2f}")
    return int(ratios is not None and max(ratios.prefill, ratios.decode) > TARGET_RATIO)


if __name__ == "__main__":
    sys.exit(main())
