"""`gem export`: a folder for the developer of an application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gemcore.cli.build_options import build_options, read_recipe, require_target_option
from gemcore.cli.display import StepDisplay


@click.command()
@build_options
@require_target_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write, which must not be there yet.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False),
    help="Export this compiled bundle; then no model is needed.",
)
def export(
    *,
    recipe_file: Path | None,
    strict: bool,
    require_target: bool,
    output: Path,
    bundle: Path | None,
    **given: Any,
) -> None:
    """Write all that an application needs: libraries, weights, tokenizer, and a README for the target."""
    from gemcore.api import export as export_model

    recipe = read_recipe(recipe_file, given)
    with StepDisplay() as display:
        report = export_model(
            output,
            bundle=bundle,
            recipe=recipe,
            step=display.step,
            download=display.download,
            strict=strict,
            require_target=require_target,
        )
    for name, what in report.files:
        click.echo(f"{output / name}: {what}")
    click.echo(f"{output / 'README.md'}: how to link and call it, and what was verified")
