"""`gem eval`: how good a compiled model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from gemcore.cli.build_options import open_for_command, open_options, read_recipe
from gemcore.cli.main import PluginGroup
from gemcore.cli.metric import metric
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from gemcore.perplexity import Perplexity
    from gemcore.recipe import Recipe
    from gemcore.session import Session


@click.group("eval", cls=PluginGroup)
def evaluate() -> None:
    """Measure the quality of a model."""


evaluate.add_command(metric)


@evaluate.command()
@open_options
@click.option(
    "--text",
    "text_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A text file; of a .jsonl file, the field 'text' of each line is one text.",
)
@click.option("--limit", type=int, help="Only the first texts of a .jsonl file.")
@click.option("--window", type=int, default=1024, show_default=True, help="Tokens read at once.")
@click.option("--stride", type=int, default=512, show_default=True, help="Tokens between windows.")
@click.option(
    "--float32", "reference", is_flag=True, help="Also measure the float32 model in torch."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def perplexity(
    *,
    recipe_file: Path | None,
    bundle: Path | None,
    strict: bool,
    text_file: Path,
    limit: int | None,
    window: int,
    stride: int,
    reference: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Perplexity and bits per byte of a text."""
    if reference and bundle is not None:
        raise UsageError("--float32 needs the model itself: give --model instead of --bundle")
    texts = read_texts(text_file, limit)
    recipe = read_recipe(recipe_file, given)
    session = open_for_command(recipe, bundle, strict=strict)
    results = {"compiled": session.perplexity(texts, window=window, stride=stride)}
    if reference:
        results["float32"] = _eager_perplexity(recipe, session, texts, window, stride)
    if as_json:
        click.echo(json.dumps({name: attrs.asdict(r) for name, r in results.items()}, indent=2))
        return
    for name, result in results.items():
        click.echo(
            f"{name:<9} perplexity {result.perplexity:9.4f}   bits per byte "
            f"{result.bits_per_byte:.5f}   ({result.tokens} tokens)"
        )
    if reference:
        ratio = results["compiled"].perplexity / results["float32"].perplexity
        click.echo(f"compiled / float32: {ratio:.5f}")


def _eager_perplexity(
    recipe: Recipe, session: Session, texts: list[str], window: int, stride: int
) -> Perplexity:
    from gemcore.models.eager import EagerModel
    from gemcore.models.sources import load_checkpoint
    from gemcore.perplexity import measure
    from gemcore.plugins import get_host

    model = EagerModel(load_checkpoint(recipe.model, get_host()))
    return measure(texts, session.tokenizer, model.logits, window=window, stride=stride)


def read_texts(path: Path, limit: int | None = None) -> list[str]:
    """The text of a file, or the texts of a .jsonl file; UsageError for anything else."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid UTF-8: byte {error.start}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if path.suffix != ".jsonl":
        return [content]
    texts = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            texts.append(_text_of(path, number, line))
        if limit is not None and len(texts) >= limit:
            break
    return texts


def _text_of(path: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise UsageError(f"{path}, line {number}: expected a JSON object with a field 'text'")
    return text
