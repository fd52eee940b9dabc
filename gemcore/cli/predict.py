"""`gem predict`: how fast a model could be on each device, by a model of its cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.build_options import build_options, open_for_command, read_recipe

if TYPE_CHECKING:
    from gemcore.prediction import HostCheck, Prediction


BUSY = 1.5
"""A load above which something else than GEM runs; GEM itself, while it compiles, makes one of 1."""


@click.command()
@build_options
@click.option("--device", default="all", show_default=True, help="A target, or 'all'.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=32, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(
    *,
    recipe_file: Path | None,
    strict: bool,
    device: str,
    prompt_tokens: int,
    new_tokens: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Predict time to first token and tokens a second: a limit by published figures, not a measurement.

    For this machine the prediction is compared with a measurement.
    """
    from gemcore.plugins import get_host
    from gemcore.prediction import as_measured, check_host
    from gemcore.prediction import predict as predict_for

    recipe = read_recipe(recipe_file, given)
    host = get_host()
    names = sorted(record.name for record in host.targets()) if device == "all" else [device]
    profiles = [host.create(host.select("target", name)).profile() for name in names]
    session = open_for_command(recipe, None, strict=strict)
    delegation = session.bundle.manifest.delegation
    check = None
    if session.execution == "native":
        check = check_host(session, prompt_tokens, new_tokens)
        profiles = [as_measured(profile, check) for profile in profiles]
    predictions = [predict_for(profile, delegation, prompt_tokens) for profile in profiles]
    if as_json:
        values = {
            "execution": "predicted",
            "prompt_tokens": prompt_tokens,
            "predictions": [prediction.to_json() for prediction in predictions],
            "check": None if check is None else check.to_json(),
        }
        click.echo(json.dumps(values, indent=2))
        return
    for line in prediction_lines(predictions, check, prompt_tokens):
        click.echo(line)


def prediction_lines(
    predictions: list[Prediction], check: HostCheck | None, prompt_tokens: int
) -> list[str]:
    """The predictions as a table, and how right the one for this machine is."""
    from gemcore.prediction import CHECK_TURNS

    lines = [
        f"predicted, not measured: the least time that memory and arithmetic of each device allow, for a "
        f"prompt of {prompt_tokens} tokens",
        f"{'device':<12} {'TTFT ms':>9} {'tokens/s':>9} {'J/token':>8}  limited by",
    ]
    for row in predictions:
        ttft = "-" if row.ttft is None else f"{row.ttft * 1e3:.0f}"
        speed = "-" if row.tokens_per_second is None else f"{row.tokens_per_second:.0f}"
        energy = "-" if row.joules_per_token is None else f"{row.joules_per_token:.3g}"
        note = row.missing or f"decode by {row.decode_limit}, prefill by {row.prefill_limit}"
        lines.append(f"{row.device:<12} {ttft:>9} {speed:>9} {energy:>8}  {note}")
    if check is not None:
        threads = "1 thread" if check.threads == 1 else f"{check.threads} threads"
        lines += [
            "",
            f"this machine with {threads}, the fastest of {CHECK_TURNS} turns, against the "
            f"same model with the memory bandwidth ({check.bandwidth / 1e9:.1f} GB/s) and the clock "
            f"({check.clock_hz / 1e9:.2f} GHz) measured in the same turns:",
            f"  time to first token  {check.measured_ttft * 1e3:.1f} ms measured, "
            f"{check.predicted_ttft * 1e3:.1f} ms predicted, error {check.ttft_error:+.0%}",
            f"  decode               {check.measured_speed:.1f} tokens/s measured, "
            f"{check.predicted_speed:.1f} predicted, error {check.speed_error:+.0%}",
        ]
        if check.load > BUSY:
            lines.append(
                f"  other programs kept the machine busy (load {check.load:.1f}), so what was measured is "
                "too slow: end them and try again"
            )
    return lines
