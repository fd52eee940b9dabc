"""The options that say what to build and how to sample, shared by the commands that need a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gemcore.recipe import Recipe
    from gemcore.session import Session
    from gemcore.text.sampling import SamplingSettings

Command = TypeVar("Command", bound=Callable[..., Any])


def _together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


build_options = _together(
    click.option(
        "-m", "--model", help="A known name, a .gguf file, a Hugging Face folder or Hub id."
    ),
    click.option("--router", help="How tokens choose experts, for example 'none'."),
    click.option("-q", "--quantizer", help="How weights are stored, for example 'q4a-g32'."),
    click.option("--target", help="What to compile for, for example 'host'."),
    click.option(
        "--kv-cache",
        help="How keys and values are cached: 'f16', or 'q8' in half the memory.  [default: the target's]",
    ),
    click.option(
        "--strict", is_flag=True, help="Fail where a weight cannot be quantized as asked."
    ),
    click.option(
        "--recipe",
        "recipe_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A TOML file with the same settings; the command line wins.",
    ),
)
"""`--model`, `--router`, `--quantizer`, `--target`, `--kv-cache`, `--strict`, `--recipe`."""

open_options = _together(
    build_options,
    click.option(
        "--bundle",
        type=click.Path(path_type=Path, file_okay=False),
        help="Open this compiled bundle; then no model is needed.",
    ),
    click.option("--threads", type=int, help="Threads that compute; by default all cores."),
    click.option(
        "--context-length", type=int, help="The most tokens of prompt and answer together."
    ),
)
"""`build_options` with `--bundle` and `--threads`."""

require_target_option = click.option(
    "--require-target",
    is_flag=True,
    help="Fail where a part of the work is left to another unit than the target's own.",
)
"""`--require-target`."""

device_options = _together(
    require_target_option,
    click.option(
        "--rpc",
        metavar="HOST:PORT",
        help="Run on the device with this TVM RPC server, for targets that can; see docs/targets.md.",
    ),
)
"""`--require-target` and `--rpc`."""

sampling_options = _together(
    click.option("--max-tokens", type=int, help="The most tokens to generate.  [default: 256]"),
    click.option("--temperature", type=float, help="0 takes the likeliest token.  [default: 0]"),
    click.option("--top-k", type=int, help="Choose among the k likeliest tokens."),
    click.option("--top-p", type=float, help="Choose among the likeliest tokens of this total."),
    click.option("--min-p", type=float, help="Leave out tokens below this share of the likeliest."),
    click.option("--repetition-penalty", type=float, help="Above 1: repeat less."),
    click.option("--seed", type=int, help="Of the random choices."),
    click.option("--system", help="System message of the chat."),
    click.option(
        "--prompt-lookup",
        type=int,
        help="Guess up to so many tokens at a time from the text so far; the answer stays the same.",
    ),
)
"""`--max-tokens`, `--temperature` and so on, and `--system`."""

_CHOICES = ("model", "router", "quantizer", "target", "kv_cache")


def read_recipe(recipe_file: Path | None, given: dict[str, Any]) -> Recipe:
    """The recipe of a command: the file's settings, then those of the command line."""
    from gemcore.recipe import Recipe

    recipe = Recipe() if recipe_file is None else Recipe.from_file(recipe_file)
    return recipe.with_changes(**given)


def sampling_settings(recipe: Recipe) -> SamplingSettings:
    """The recipe's sampling settings."""
    from gemcore.text.sampling import SamplingSettings

    run = recipe.run
    return SamplingSettings(
        temperature=run.temperature,
        top_k=run.top_k,
        top_p=run.top_p,
        min_p=run.min_p,
        repetition_penalty=run.repetition_penalty,
        seed=run.seed,
    )


def open_for_command(
    recipe: Recipe,
    bundle: Path | None,
    *,
    strict: bool = False,
    require_target: bool = False,
    rpc: str | None = None,
) -> Session:
    """The session of a command: an existing bundle, or the recipe's, compiled with a display."""
    from gemcore.errors import UsageError

    if bundle is not None:
        from gemcore.api import open_session

        changed = [
            name for name in _CHOICES if getattr(recipe, name) != getattr(type(recipe)(), name)
        ]
        if changed:
            option = changed[0].replace("_", "-")
            raise UsageError(f"--bundle is compiled already: drop --{option}")
        return open_session(
            bundle,
            threads=recipe.run.threads,
            context_length=recipe.run.context_length,
            require_target=require_target,
            rpc=rpc,
        )
    from gemcore.api import load
    from gemcore.cli.display import StepDisplay

    with StepDisplay() as display:
        return load(
            recipe=recipe,
            step=display.step,
            download=display.download,
            strict=strict,
            require_target=require_target,
            rpc=rpc,
        )
