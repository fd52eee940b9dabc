"""`gem quantize`: which precision each weight gets, what that is expected to cost, and what it costs."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gem_hybrid.divergence import Divergence
    from gemcore.cli.display import StepDisplay
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.options import PluginChoice
    from gemcore.reports import Plan, PlanEntry, QuantizationReport

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("quantize")
@click.argument("model", required=False)
@click.option(
    "-q",
    "--quantizer",
    metavar="NAME[:option=value,…]",
    help="For example hybrid:bits=4.5; any quantizer can be looked at.",
)
@click.option("--plan", "plan_file", type=_FILE, help="A plan that exists, instead of --quantizer.")
@click.option(
    "--calibration", type=_FILE, help="A text file (or .jsonl) to calibrate and measure with."
)
@click.option("-o", "--output", type=_FILE, help="Write the plan here, as TOML.")
@click.option("--gguf", type=_FILE, help="Write the quantized model here, for llama.cpp.")
@click.option("--pareto", type=_FILE, help="Write bytes against KL here, as one HTML page.")
@click.option("--strict", is_flag=True, help="Fail where a weight cannot be quantized as asked.")
@click.option(
    "--measure/--no-measure",
    default=True,
    help="Also quantize, and measure the KL divergence.  [default: --measure]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quantize(
    *,
    model: str | None,
    quantizer: str | None,
    plan_file: Path | None,
    calibration: Path | None,
    output: Path | None,
    gguf: Path | None,
    pareto: Path | None,
    strict: bool,
    measure: bool,
    as_json: bool,
) -> None:
    """Give every weight of MODEL a precision, and say what that costs.

    Nothing is compiled: gem compile --quantizer hybrid:plan=PLAN.toml does that with the plan.
    """
    # Before torch comes: beside other work, threads that wait in a loop take more time than they give.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gem_hybrid.plan_file import write_plan
    from gemcore.cli.display import StepDisplay
    from gemcore.models.sources import load_checkpoint
    from gemcore.models.weights import banded
    from gemcore.plugins import get_host
    from gemcore.recipe import DEFAULT_MODEL

    for path in (output, gguf, pareto):
        _check_folder(path)
    if gguf is not None and not measure:
        raise UsageError("--gguf needs the quantized weights: leave out --no-measure")
    host = get_host()
    choice = _choice(quantizer, plan_file, calibration)
    maker = host.create(host.select("quantizer", choice))
    if pareto is not None and not hasattr(maker, "choices"):
        raise UsageError(f"--pareto needs the quantizer 'hybrid', not '{choice.name}'")
    with StepDisplay() as display:
        checkpoint = load_checkpoint(model or DEFAULT_MODEL, host, display.download)
        display.step("measuring what precision costs", 0, 1)
        plan = maker.plan(checkpoint, None, None)
        checkpoint = banded(checkpoint, plan)
        _check_plan(plan, checkpoint, strict, gguf)
        notes = _notes(plan, checkpoint)
        if output is not None:
            write_plan(output, checkpoint, plan, tuple(notes))
        report, divergence = (
            _measured(maker, checkpoint, plan, display, gguf) if measure else (None, None)
        )
        if divergence is not None:
            notes.append(_measured_words(divergence))
        if output is not None:
            write_plan(output, checkpoint, plan, tuple(notes))
        if pareto is not None:
            display.step("drawing", 0, 1)
            _write_page(pareto, maker, checkpoint, plan, divergence)
    if as_json:
        click.echo(json.dumps(_json(checkpoint, plan, report, divergence), indent=2))
    else:
        for line in _lines(plan, notes, report):
            click.echo(line)


def _lines(plan: Plan, notes: list[str], report: QuantizationReport | None) -> list[str]:
    """What is printed: the table, then a line for each thing to say."""
    lines = _table(plan)
    lines += [f"skipped: {name}, {reason}" for name, reason in plan.skipped]
    lines += notes
    if report is not None:
        lines.append(
            f"{report.quantized} weights quantized, {report.lossless} of them without loss, "
            f"{len(report.skipped)} skipped; {report.bytes_before} bytes before"
        )
    return lines


def _check_folder(path: Path | None) -> None:
    """Before minutes of work, not after them."""
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")


def _check_plan(plan: Plan, checkpoint: Checkpoint, strict: bool, gguf: Path | None) -> None:
    """What may not be, before minutes of rounding."""
    if strict and plan.skipped:
        name, reason = plan.skipped[0]
        raise UsageError(
            f"{len(plan.skipped)} weights cannot be quantized as asked: {name}, {reason}"
        )
    if gguf is not None:
        from gem_hybrid.gguf_export import check_exportable

        check_exportable(checkpoint, plan)


def _choice(
    quantizer: str | None, plan_file: Path | None, calibration: Path | None
) -> PluginChoice:
    """The quantizer, as its words and the command's own options give it."""
    from gemcore.options import PluginChoice, parse_words

    if (quantizer is None) == (plan_file is None):
        raise UsageError(
            "give a quantizer (--quantizer hybrid:bits=4.5) or a plan (--plan FILE)"
            + ("" if quantizer is None else ", not both")
        )
    if plan_file is not None:
        choice = PluginChoice("hybrid", {"plan": str(plan_file)})
    else:
        assert quantizer is not None
        choice = parse_words(quantizer)
    if calibration is None:
        return choice
    if "calibration" in choice.options:
        raise UsageError("the calibration text is given twice: leave out one of the two")
    return attrs.evolve(choice, options={**choice.options, "calibration": str(calibration)})


def _measured(
    maker: Any, checkpoint: Checkpoint, plan: Plan, display: StepDisplay, gguf: Path | None
) -> tuple[QuantizationReport, Divergence]:
    from gem_hybrid.calibration import calibrate_on, calibration_text
    from gem_hybrid.divergence import measure_divergence
    from gemcore.models.cache_layout import DEFAULT_CACHE

    own = getattr(maker, "calibration", None)
    text = own(checkpoint) if own else calibrate_on(checkpoint, [calibration_text()], 8192)
    weights, report = maker.apply(
        checkpoint, plan, lambda done, total: display.step("quantizing", done, total)
    )
    if gguf is not None:
        from gem_hybrid.gguf_export import write_gguf

        display.step("writing", 0, 1)
        write_gguf(gguf, checkpoint, plan, weights)
    display.step("measuring the KL divergence", 0, 1)
    cache = DEFAULT_CACHE if plan.kv_cache is None else plan.kv_cache.scheme
    found = measure_divergence(checkpoint, plan.schemes(), weights, text.held_out, cache)
    return report, found


def _notes(plan: Plan, checkpoint: Checkpoint) -> list[str]:
    from gemcore.models.layout import weight_units

    size = sum(entry.bytes for entry in plan.entries)
    weights = sum(unit.parameters for unit in weight_units(checkpoint.config))
    notes = [f"{plan.quantizer}: {size} bytes, {8 * size / weights:.3f} bits a weight"]
    if plan.kv_cache is not None:
        notes.append(f"KV cache {plan.kv_cache.scheme}: {plan.kv_cache.bytes} bytes")
    if plan.beside:
        words = "experts and their router" if _has_router(plan) else "experts"
        notes.append(f"{words}: {sum(entry.bytes for entry in plan.beside)} bytes")
    expected = _expected(plan)
    if expected is not None:
        notes.append(f"expected KL {expected:.4g} nats a token")
    return notes


def _has_router(plan: Plan) -> bool:
    return any(entry.unit.startswith("router.") for entry in plan.beside)


def _all_entries(plan: Plan) -> tuple[PlanEntry, ...]:
    """The KV cache after the weights."""
    return plan.entries if plan.kv_cache is None else (*plan.entries, plan.kv_cache)


def _expected(plan: Plan) -> float | None:
    errors = [entry.expected_error for entry in _all_entries(plan)]
    known = [error for error in errors if error is not None]
    return math.fsum(known) if len(known) == len(errors) else None


def _measured_words(divergence: Divergence) -> str:
    return (
        f"measured KL {divergence.kl:.4g} nats a token, standard error "
        f"{divergence.standard_error:.2g}, on {divergence.tokens} tokens held out of the "
        f"calibration text; {divergence.weights_only:.4g} of it by weights alone"
    )


def _table(plan: Plan) -> list[str]:
    rows = [("weight", "precision", "bytes", "KL", "reason")]
    for entry in (*_all_entries(plan), *plan.beside):
        error = "-" if entry.expected_error is None else f"{entry.expected_error:.2e}"
        rows.append((entry.unit, entry.scheme, str(entry.bytes), error, entry.reason))
    a, b, c, d = (max(len(row[i]) for row in rows) for i in range(4))
    return [f"{r[0]:<{a}}  {r[1]:<{b}}  {r[2]:>{c}}  {r[3]:>{d}}  {r[4]}" for r in rows]


def _write_page(
    path: Path, maker: Any, checkpoint: Checkpoint, plan: Plan, divergence: Divergence | None
) -> None:
    from gem_hybrid.page import pareto_page
    from gem_hybrid.pareto import Point, front, uniform
    from gemcore.cache import write_atomically

    table = maker.choices(checkpoint)
    size = sum(entry.bytes for entry in plan.entries)
    costs = {(unit.unit, c.scheme): c.error for unit in table for c in unit.choices}
    errors = [costs.get((entry.unit, entry.scheme)) for entry in plan.entries]
    known = [error for error in errors if error is not None]
    chosen = []
    if len(known) == len(errors):
        chosen.append(Point(bytes=size, kl=math.fsum(known), name="this plan, expected"))
    if divergence is not None:
        chosen.append(Point(bytes=size, kl=divergence.kl, name="this plan, measured"))
    page = pareto_page(checkpoint.name, plan, front(table), uniform(table), chosen)
    with write_atomically(path) as file:
        file.write(page.encode())


def _json(
    checkpoint: Checkpoint,
    plan: Plan,
    report: QuantizationReport | None,
    divergence: Divergence | None,
) -> dict[str, Any]:
    return {
        "model": checkpoint.name,
        "plan": attrs.asdict(plan),
        "bytes": sum(entry.bytes for entry in plan.entries),
        "expected_kl": _expected(plan),
        "measured": None if divergence is None else attrs.asdict(divergence),
        "report": None if report is None else attrs.asdict(report),
    }
