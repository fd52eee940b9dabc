"""A plugin with commands: one that works, one that crashes, one that claims a name of GEM's own."""

import click

from gemcore import hookimpl
from gemcore.errors import GemError


@hookimpl
def gem_metrics():
    return ()


@click.command()
@click.option("--loudly", is_flag=True)
def greet(*, loudly):
    """Greet the user."""
    click.echo("HELLO" if loudly else "hello")


@click.command()
def crash():
    """Fail in a way that nobody foresaw."""
    {}["no such key"]


@click.command()
def refuse():
    """Fail with a sentence and an exit code of its own."""
    error = GemError("the shop is closed")
    error.exit_code = 7
    raise error


@click.command()
def interrupt():
    """Act as if the user had pressed Ctrl-C."""
    raise KeyboardInterrupt


@click.command()
def flood():
    """Print more than a closed pipe takes."""
    for number in range(100_000):
        click.echo(f"line {number}")


@click.command("plugins")
def other_plugins():
    """Never run: `gem plugins` is GEM's own."""
    raise AssertionError


NOT_A_COMMAND = "text"
