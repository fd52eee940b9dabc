"""`gem eval lm-eval`: the command line of lm-evaluation-harness, with GEM among its models."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from gemcore.errors import GemError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OTHER_COMMANDS = ("ls", "validate", "-h", "--help")


@click.command(
    "lm-eval",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="gem eval lm-eval run --help shows lm-eval's own options.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lm_eval_command(arguments: tuple[str, ...]) -> None:
    """Run EleutherAI's lm-evaluation-harness with a model of GEM.

    ARGUMENTS are those of lm-eval, whose --model is 'gem' unless it is given, for example
    --tasks piqa --model_args model=smollm2-135m,threads=2. Model arguments: bundle=FOLDER, or model,
    router, quantizer, target, kv_cache and recipe as for 'gem compile'; engine=float32 for the
    weights in torch; threads, context_length and seed.
    """
    from gem_suite.lm_eval_model import harness_module, register_gem
    from gemcore.loading import one_sentence

    harness = harness_module("lm_eval.__main__")
    register_gem()
    try:
        with _command_line(["lm-eval", *harness_arguments(arguments)]):
            harness.cli_evaluate()
    except (ValueError, LookupError, OSError) as error:
        # What lm-eval says of a task, a file or an option that it cannot use.
        raise GemError(f"lm-eval failed: {one_sentence(error)}") from error


def harness_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments for lm-eval, with GEM as the model where they do not name one.

    >>> harness_arguments(["--tasks", "piqa"])
    ['run', '--model', 'gem', '--tasks', 'piqa']
    >>> harness_arguments(["ls", "tasks"])
    ['ls', 'tasks']
    """
    words = list(arguments)
    if not words or words[0] in _OTHER_COMMANDS:
        return words
    if words[0] == "run":
        del words[0]
    if any(word == "--config" or word.startswith(("--config=", "-C")) for word in words):
        # The file may name another model, and a word on the command line would win.
        return ["run", *words]
    # Before the others: of two models, the last one counts.
    return ["run", "--model", "gem", *words]


@contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    """Let `sys.argv`, which lm-eval reads, be `words` for a while."""
    before = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = before
