"""`gem experts train`: an expert for a domain, from benchmark data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gem_suite.licences import CHOICES
from gemcore.errors import UsageError
from gemcore.recipe import DEFAULT_MODEL

if TYPE_CHECKING:
    from gem_experts.training.job import Job
    from gem_experts.training.material import Material, MaterialSettings

_FOLDER = click.Path(path_type=Path, file_okay=False)


class _Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "NAME,…"

    def convert(self, value: Any, *_: Any) -> tuple[str, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


class _Range(click.ParamType[tuple[int, int]]):
    """Two whole numbers with a colon between them."""

    name = "FIRST:END"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Split at the colon."""
        if isinstance(value, tuple):
            return value
        first, colon, end = str(value).partition(":")
        if not (colon and first.isdecimal() and end.isdecimal()):
            self.fail(f"'{value}' is not FIRST:END, such as 8:30", param, ctx)
        return int(first), int(end)


@click.command()
@click.option("--domain", required=True, help="What to learn: a folder of the data.")
@click.option("--data", type=_FOLDER, help="The folder of the benchmark data; else GEM_DATA.")
@click.option("-o", "--output", type=_FOLDER, required=True, help="The folder of the result.")
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="The base model.")
@click.option("--rank", type=click.IntRange(1, 1024), default=16, show_default=True)
@click.option("--layers", type=_Range(), default="8:30", show_default=True)
@click.option(
    "--units", type=_Names(), default="attention.qkv,feed_forward.down", show_default=True
)
@click.option("--full", is_flag=True, help="Train every weight, and write a whole model.")
@click.option("--steps", type=click.IntRange(1), help="Steps of the optimizer.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Instead of --steps.")
@click.option("--batch-tokens", type=click.IntRange(16), default=1024, show_default=True)
@click.option(
    "--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Passes a step."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="The highest.  [default: 3e-3, with --full 5e-5]",
)
@click.option("--weight-decay", type=click.FloatRange(0), default=0.0, show_default=True)
@click.option("--precision", type=click.Choice(("bf16", "f32")), default="bf16", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--licences",
    type=click.Choice(CHOICES),
    default="permissive",
    show_default=True,
    help="Only data whose licence permits to pass on what was made of it, or all.",
)
@click.option("--exclude", type=_Names(), default=(), help="Benchmarks to leave out.")
@click.option(
    "--text-share",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the corpus in the tokens; the rest are questions.",
)
@click.option("--no-preserve", is_flag=True, help="Let general skill go where it will.")
@click.option(
    "--epsilon",
    type=click.FloatRange(0, min_open=True),
    default=0.01,
    show_default=True,
    help="How much the loss on general text may rise, as a share.",
)
@click.option("--general", type=_FOLDER, help="General text to preserve: a folder of .txt files.")
@click.option("--general-tokens", type=click.IntRange(64), default=16384, show_default=True)
@click.option(
    "--alpha",
    type=click.FloatRange(0),
    help="First weight of the divergence from the base.  [default: 0.1, with --full 1]",
)
@click.option(
    "--ewc-lambda",
    type=click.FloatRange(0),
    help="First weight of the importance-weighted penalty; 0: none.  [default: 0.1, with --full 1]",
)
@click.option(
    "--ewc-mode", type=click.Choice(("separate", "online")), default="separate", show_default=True
)
@click.option(
    "--decay-factor", type=click.FloatRange(0, min_open=True), default=0.9, show_default=True
)
@click.option("--heldout-bytes", type=click.IntRange(1), help="Measure only so much; else all.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--checkpoint-every", type=click.IntRange(1), default=50, show_default=True)
@click.option("--restart", is_flag=True, help="Forget what an interrupted run has left.")
@click.option("--dry-run", is_flag=True, help="Say what would be read, and train nothing.")
def train(**given: Any) -> None:
    """Train an expert, low-rank deltas, for a domain of benchmark data.

    It learns from the domain's training items in their prompt form, answered rightly, and from its
    corpus; held-out text is only measured. What is interrupted goes on where it was when the same
    command is given again.
    """
    from gem_experts.training.cli_progress import TrainingDisplay
    from gem_experts.training.job import run_job
    from gem_experts.training.material import read_material
    from gem_experts.training.state import clear_state
    from gem_suite.sources import all_benchmarks
    from gemcore.cli.display import StepDisplay
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host
    from gemcore.text.tokenizer import Tokenizer

    settings = _material_settings(given)
    if given["steps"] and given["epochs"]:
        raise UsageError("--steps and --epochs say how long to train in two ways: give one of them")
    if given["output"].exists() and not given["dry_run"]:
        raise UsageError(f"{given['output']} exists already: choose another name, or remove it")
    host = get_host()
    benchmarks = all_benchmarks(host)
    with StepDisplay() as display:
        checkpoint = load_checkpoint(given["model"], host, display.download)
        display.step("reading texts", 0, 1)
        material = read_material(
            settings,
            benchmarks,
            Tokenizer.from_text_data(checkpoint.text),
            preserve=not given["no_preserve"],
        )
        _say_data(material)
        if given["dry_run"]:
            return
        _use_threads(given["threads"])
        job = _job(given, material, click.get_current_context())
        if given["restart"]:
            clear_state(job.state_folder)
        shown = TrainingDisplay(display, given["batch_tokens"] * given["accumulate"])
        outcome = run_job(job, checkpoint, material, display.step, shown.step)
    _say_scores(outcome.scores)
    click.echo(f"wrote {outcome.folder}")


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _material_settings(given: dict[str, Any]) -> MaterialSettings:
    from gem_experts.training.material import MaterialSettings
    from gem_suite.folders import data_folder

    names = ("domain", "licences", "exclude", "general", "batch_tokens", "general_tokens")
    more = ("heldout_bytes", "text_share", "seed")
    values = {name: given[name] for name in (*names, *more)}
    return MaterialSettings(root=data_folder(given["data"]), **values)


def _job(given: dict[str, Any], material: Material, context: click.Context) -> Job:
    from gem_experts.training.job import ExpertSettings, Job
    from gem_experts.training.loop import LoopSettings
    from gem_experts.training.material import passes_of
    from gem_experts.training.preservation import PreservationSettings

    steps = given["steps"]
    if steps is None:
        passes = passes_of(material.mixture, given["epochs"] or 1.0)
        steps = max(1, passes // given["accumulate"])
    rate = given["learning_rate"] or (5e-5 if given["full"] else 3e-3)
    # An expert's few weights drift little; a whole model has drifted far before the weights follow.
    first = 1.0 if given["full"] else 0.1
    preservation = PreservationSettings(
        epsilon=given["epsilon"],
        alpha=first if given["alpha"] is None else given["alpha"],
        ewc_lambda=first if given["ewc_lambda"] is None else given["ewc_lambda"],
        mode=given["ewc_mode"],
        decay_factor=given["decay_factor"],
    )
    return Job(
        expert=ExpertSettings(
            rank=given["rank"], layers=given["layers"], kinds=given["units"], full=given["full"]
        ),
        loop=LoopSettings(
            steps=steps,
            accumulate=given["accumulate"],
            learning_rate=rate,
            weight_decay=given["weight_decay"],
            precision=given["precision"],
        ),
        preservation=None if given["no_preserve"] else preservation,
        seed=given["seed"],
        general_batch=max(64, given["batch_tokens"] // 2),
        checkpoint_every=given["checkpoint_every"],
        command=command_line(context),
        base_name=given["model"],
        folder=given["output"].absolute(),
    )


_PRIVATE = ("output", "data", "general", "threads", "restart", "checkpoint_every")
"""Where things lie on one machine, and what changes nothing in the result: not for a card."""


def command_line(context: click.Context) -> str:
    """The command with the options that were given, as it can be given again.

    Folders become words: where they lie says nothing to others.
    """
    words = ["gem", "experts", "train"]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not click.core.ParameterSource.COMMANDLINE or name in _PRIVATE:
            continue
        value = context.params[name]
        words.append(max(parameter.opts, key=len))
        if not (isinstance(parameter, click.Option) and parameter.is_flag):
            words.append(_word(value, colon=name == "layers"))
    return f"{shlex.join(words)} --data DATA -o FOLDER"


def _word(value: Any, *, colon: bool) -> str:
    if isinstance(value, tuple):
        return (":" if colon else ",").join(map(str, value))
    return str(value)


def _say_data(material: Material) -> None:
    data = material.data
    for source in data.sources:
        click.echo(f"{source.name}: {source.items} texts, {source.bytes} bytes, {source.licence}")
    for name, reason in data.left_out.items():
        click.echo(f"left out: {name}: {reason}")
    passes = len(material.mixture.epoch(0))
    click.echo(f"in all {data.bytes} bytes; an epoch is {passes} passes")


def _say_scores(scores: Any) -> None:
    for kind, label in (("domain", "the domain"), ("general", "general text")):
        found = scores.get(f"bits_per_byte_{kind}")
        if found:
            click.echo(
                f"bits per byte of {label}, held out: {found['base']:.4f} before, "
                f"{found['expert']:.4f} after ({100 * found['change']:+.2f} %)"
            )
