"""From measurements to medians, ratios, tables and JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from peer_comparison.compare import Comparison, Findings
from peer_comparison.records import Timing
from peer_comparison.systems import System

BUSY = 0.02
"""Share of a core above which a waiting worker is pointed out."""

_FIGURES: Mapping[str, Callable[[Timing], float]] = {
    "prefill_tokens_per_s": lambda timing: timing.prefill_speed,
    "decode_tokens_per_s": lambda timing: timing.decode_speed,
    "ttft_ms": lambda timing: timing.ttft * 1e3,
}


@attrs.frozen(kw_only=True)
class Spread:
    """Several measurements of one thing, round by round."""

    median: float
    lowest: float
    highest: float
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median and extremes of `values`."""
        return cls(
            median=statistics.median(values),
            lowest=min(values),
            highest=max(values),
            rounds=tuple(values),
        )

    def __str__(self) -> str:
        return f"{_number(self.median)} ({_number(self.lowest)} to {_number(self.highest)})"


def spreads(timings: Sequence[Timing]) -> dict[str, Spread]:
    """Every figure of one system in one setting."""
    return {
        name: Spread.of([figure(timing) for timing in timings]) for name, figure in _FIGURES.items()
    }


def ratios(ours: Sequence[Timing], theirs: Sequence[Timing]) -> dict[str, Spread]:
    """How many times as fast we are: the ratio of each round, and then their median.

    What slows one round down slows both of its measurements, and so leaves their ratio alone.
    """
    pairs = list(zip(ours, theirs, strict=False))
    return {
        "prefill": Spread.of([a.prefill_speed / b.prefill_speed for a, b in pairs]),
        "decode": Spread.of([a.decode_speed / b.decode_speed for a, b in pairs]),
    }


def perplexity(findings: Findings, name: str) -> float | None:
    """Perplexity: e to the mean negative log-likelihood of a token; None where it was not measured."""
    loss = findings.losses.get(name)
    return None if loss is None else math.exp(loss / findings.scored)


def to_json(comparison: Comparison, surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, and what it was measured with and on."""
    findings, plan = comparison.findings, comparison.plan
    return {
        **surroundings,
        "model": {"name": comparison.model.name, "sha256": comparison.model.identity},
        "plan": {
            "threads": list(plan.threads),
            "prompt_tokens": list(plan.prompt_tokens),
            "new_tokens": plan.new_tokens,
            "rounds": plan.rounds,
            "seed": plan.seed,
            "memory_context": comparison.memory_context,
            "perplexity_texts": len(plan.texts),
            "perplexity_tokens": findings.scored,
        },
        "systems": {system.name: _system_json(findings, system) for system in comparison.systems},
        "results": list(_results(comparison)),
    }


def to_markdown(comparison: Comparison, surroundings: Mapping[str, Any]) -> str:
    """The tables that people read."""
    rounds = comparison.plan.rounds
    where = f"{surroundings['processor']}, {surroundings['cores']} cores"
    how = f"medians of {rounds} rounds" if rounds > 1 else "one round"
    blocks = [
        f"`{surroundings['command']}`\n\n{where}; {surroundings['date']}; "
        f"model {comparison.model.name}; {how}, in brackets the lowest and the highest",
        *(_speed_block(comparison, *setting) for setting in comparison.findings.timings),
        _systems_block(comparison),
        *_notes(comparison.findings),
    ]
    return "\n\n".join(blocks) + "\n"


def _system_json(findings: Findings, system: System) -> dict[str, Any]:
    told = findings.loaded.get(system.name, {})
    busy, waited = findings.idle.get(system.name, (0.0, 0.0))
    memory = findings.memory.get(system.name)
    return {
        "summary": system.summary,
        "versions": told.get("versions", {}),
        "settings": told.get("settings", {}),
        "peak_memory_mb": None if memory is None else memory / 1e6,
        "perplexity": perplexity(findings, system.name),
        "busy_while_waiting": busy / waited if waited else None,
        "left_out": findings.reasons.get(system.name),
    }


def _results(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for (threads, length), timings in comparison.findings.timings.items():
        ours = _ours(comparison, timings)
        for name, measured in timings.items():
            compared = ratios(ours, measured) if ours else {}
            yield {
                "system": name,
                "threads": threads,
                "prompt_tokens": length,
                "new_tokens": comparison.plan.new_tokens,
                **{figure: attrs.asdict(s) for figure, s in spreads(measured).items()},
                "gem_ratio": {figure: attrs.asdict(s) for figure, s in compared.items()},
            }


def _ours(comparison: Comparison, timings: Mapping[str, list[Timing]]) -> list[Timing]:
    """The measurements of the first GEM that was asked for."""
    names = [system.name for system in comparison.systems if system.is_gem]
    return timings.get(names[0], []) if names else []


def _speed_block(comparison: Comparison, threads: int, length: int) -> str:
    timings = comparison.findings.timings[threads, length]
    ours = _ours(comparison, timings)
    rows = []
    for system in comparison.systems:
        measured = timings.get(system.name)
        if not measured:
            rows.append([system.summary, "left out", "", "", "", ""])
            continue
        figures = [str(spread) for spread in spreads(measured).values()]
        compared = [f"{s.median:.2f} x" for s in ratios(ours, measured).values()] if ours else []
        rows.append([system.summary, *figures, *(compared or ["", ""])])
    title = f"**{threads} thread{'' if threads == 1 else 's'}, prompt of {length} tokens**"
    columns = ["", "prefill, tokens/s", "decode, tokens/s", "first token, ms"]
    return f"{title}\n\n" + table([*columns, "GEM's prefill", "GEM's decode"], rows)


def _systems_block(comparison: Comparison) -> str:
    findings = comparison.findings
    rows = []
    for system in comparison.systems:
        values = _system_json(findings, system)
        memory, quality = values["peak_memory_mb"], values["perplexity"]
        versions = ", ".join(f"{name} {number}" for name, number in values["versions"].items())
        reason = values["left_out"]
        rows.append(
            [
                system.summary,
                "" if memory is None else f"{memory:.0f}",
                "" if quality is None else f"{quality:.3f}",
                versions + (f"{'; ' if versions else ''}left out: {reason}" if reason else ""),
            ]
        )
    columns = ["", f"peak memory, MB ({comparison.memory_context} tokens)"]
    scored = f" ({findings.scored} tokens)" if findings.scored else ""
    return table([*columns, f"perplexity{scored}", "versions"], rows)


def _notes(findings: Findings) -> Iterator[str]:
    for name, (busy, waited) in findings.idle.items():
        if waited and busy / waited > BUSY:
            yield (
                f"{name} used {busy / waited:.0%} of a core while others were measured: "
                "their figures may be too low."
            )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, padded so that it reads well as it is; the first column is text."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(3, *(len(row[i]) for row in (columns, *cells))) for i in range(len(columns))]
    lines = [columns, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], *cells]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"
