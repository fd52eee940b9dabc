"""`gem bench`: how fast a compiled model is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.build_options import (
    device_options,
    open_for_command,
    open_options,
    read_recipe,
)

if TYPE_CHECKING:
    from gemcore.benchmark import BenchmarkResult, Spread
    from gemcore.profile import KernelProfile, PhaseProfile, Profile
    from gemcore.runtime.traffic import Traffic


@click.command()
@open_options
@device_options
@click.option("--prompt-tokens", type=int, default=256, show_default=True)
@click.option("--new-tokens", type=int, default=64, show_default=True)
@click.option("--repetitions", type=int, default=5, show_default=True)
@click.option(
    "--profile", "wants_profile", is_flag=True, help="Show where the time goes, kernel by kernel."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, with the versions of everything."
)
def bench(
    *,
    recipe_file: Path | None,
    bundle: Path | None,
    strict: bool,
    require_target: bool,
    rpc: str | None,
    prompt_tokens: int,
    new_tokens: int,
    repetitions: int,
    wants_profile: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Time prefill and decode: medians of several repetitions after a warm-up."""
    from gemcore.benchmark import measure
    from gemcore.build import manifest_summary
    from gemcore.profile import native_executor, profile
    from gemcore.runtime.tvm_runtime import usable_cores

    recipe = read_recipe(recipe_file, given)
    session = open_for_command(
        recipe, bundle, strict=strict, require_target=require_target, rpc=rpc
    )
    if wants_profile:
        native_executor(session)
    result = measure(
        session,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        threads=recipe.run.threads or usable_cores(),
        repetitions=repetitions,
    )
    profiled = profile(session, result) if wants_profile else None
    summary = manifest_summary(session.bundle)
    if as_json:
        versions = dict(session.bundle.manifest.versions)
        where = {"execution": session.execution, "machine": session.machine or None}
        values = {**summary, **where, **result.to_json(), "versions": versions}
        if profiled is not None:
            values["profile"] = profiled.to_json()
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(
        f"{summary['model']}, quantizer {summary['quantizer']}, router {summary['router']}, "
        f"target {summary['target']}, {result.threads} threads, {repetitions} repetitions"
    )
    if session.execution != "native":
        click.echo(
            f"emulated by {session.machine}: these are the emulator's figures, not the device's"
        )
    for line in [*bench_table(result), *(profile_tables(profiled) if profiled else [])]:
        click.echo(line)


def bench_table(result: BenchmarkResult) -> list[str]:
    """The results as lines of text: median, and lowest and highest behind it."""

    def row(name: str, unit: str, spread: Spread) -> str:
        extremes = f"({spread.lowest:.1f} to {spread.highest:.1f})"
        return f"{name:<22} {spread.median:9.1f} {unit:<9} {extremes}"

    return [
        row(f"prefill, {result.prompt_tokens} tokens", "tokens/s", result.prefill),
        row(f"decode, {result.new_tokens} tokens", "tokens/s", result.decode),
        row("time to first token", "ms", result.ttft),
        f"{'peak memory':<22} {result.peak_memory:9.1f} MB",
    ]


def profile_tables(profile: Profile) -> list[str]:
    """A profile as lines of text: a table of the kernels of each phase, and what it comes to."""
    plural = "s" if profile.threads > 1 else ""
    prompt = f"prefill, a prompt of {profile.prefill.tokens} tokens"
    return [
        "",
        f"memory gives {profile.bandwidth_limit / 1e9:.1f} GB/s to {profile.threads} thread{plural}",
        "",
        *_phase_table(prompt, "prompt", profile.prefill, profile),
        "",
        *_phase_table("decode, one token", "token", profile.decode, profile),
    ]


def _phase_table(title: str, unit: str, phase: PhaseProfile, profile: Profile) -> list[str]:
    width = max(len(title), *(len(kernel.name) for kernel in phase.kernels))
    head = f"{'calls':>6} {'us':>9} {'time':>6} {'read MB':>8} {'written':>8} {'memory':>8}"
    speed = 1e6 * phase.tokens / phase.microseconds
    machine = "in Python"
    if phase.machine_calls:
        machine = (
            f"the virtual machine's own {phase.machine_calls} calls take "
            f"{phase.machine_microseconds:.1f} us, Python the rest"
        )
    return [
        f"{title:<{width}} {head} {'GB/s':>6} {'limit':>6} {'GMAC/s':>7}",
        *(_kernel_row(kernel, width, phase, profile) for kernel in phase.kernels),
        f"{'all kernels':<{width}} {sum(kernel.calls for kernel in phase.kernels):>6} "
        f"{phase.kernel_microseconds:>9.1f} {1:>6.1%} {_megabytes(phase.traffic)}",
        f"a {unit} takes {phase.microseconds:.1f} us, {phase.outside_share:.1%} of it in no kernel: "
        f"{machine}",
        f"with a clock around each call it takes {phase.instrumented_microseconds:.1f} us",
        f"memory (weights and caches): {phase.traffic.memory / 1e6:.3f} MB a {unit}, at "
        f"{speed:.1f} tokens/s {phase.memory_bytes_per_s / 1e9:.1f} GB/s, "
        f"{profile.limit_share(phase):.1%} of what memory gives",
    ]


def _kernel_row(kernel: KernelProfile, width: int, phase: PhaseProfile, profile: Profile) -> str:
    rate, limit = kernel.memory_bytes_per_s, profile.limit_share(kernel)
    work = kernel.multiply_accumulates_per_s
    return (
        f"{kernel.name:<{width}} {kernel.calls:>6} {kernel.microseconds:>9.1f} "
        f"{kernel.microseconds / phase.kernel_microseconds:>6.1%} {_megabytes(kernel.traffic)} "
        f"{format(rate / 1e9, '.1f') if rate else '-':>6} "
        f"{format(limit, '.1%') if rate else '-':>6} {format(work / 1e9, '.1f') if work else '-':>7}"
    )


def _megabytes(traffic: Traffic) -> str:
    return " ".join(
        f"{count / 1e6:>8.3f}" for count in (traffic.read, traffic.written, traffic.memory)
    )
