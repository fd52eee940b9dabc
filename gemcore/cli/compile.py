"""`gem compile`: a bundle of its own, to copy and to run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gemcore.cli.build_options import build_options, read_recipe, require_target_option
from gemcore.cli.display import StepDisplay, note


@click.command("compile")
@build_options
@require_target_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Where to write the bundle, for example model.gem.",
)
def compile_command(
    *,
    recipe_file: Path | None,
    strict: bool,
    require_target: bool,
    output: Path,
    **given: Any,
) -> None:
    """Compile a model into a bundle."""
    from gemcore.api import compile as compile_model

    recipe = read_recipe(recipe_file, given)
    with StepDisplay() as display:
        bundle = compile_model(
            output=output,
            recipe=recipe,
            step=display.step,
            download=display.download,
            strict=strict,
            require_target=require_target,
        )
    report = bundle.manifest.quantization
    for name, reason in report["skipped"]:
        note(f"{name}: {reason}")
    size = sum(entry["size"] for entry in bundle.manifest.files.values())
    click.echo(
        f"{output}: {size / 1e6:.1f} MB, {report['quantized']} weights quantized, "
        f"{report['lossless']} of them without loss, {len(report['skipped'])} skipped"
    )
