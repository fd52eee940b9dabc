"""The command `gem`: finds the command that was asked for, and ends every failure with a sentence."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gemcore.errors import GemError

if TYPE_CHECKING:
    from gemcore.discovery import Entry

CORE_COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": ("gemcore.cli.run:run", "Answer one prompt."),
        "chat": ("gemcore.cli.chat:chat", "Talk with a model."),
        "route": ("gemcore.cli.route:route", "Show which experts a text calls for."),
        "compile": ("gemcore.cli.compile:compile_command", "Compile a model into a bundle."),
        "export": ("gemcore.cli.export:export", "Write what an application on a device needs."),
        "bench": ("gemcore.cli.bench:bench", "Measure speed and memory."),
        "predict": ("gemcore.cli.predict:predict", "Predict speed on devices that are not here."),
        "eval": ("gemcore.cli.evaluate:evaluate", "Measure quality."),
        "models": ("gemcore.cli.models:models", "List and fetch models."),
        "plugins": ("gemcore.cli.plugins:plugins", "List, describe, make and install plugins."),
        "targets": ("gemcore.cli.targets:targets", "List and describe hardware targets."),
    }
)
"""GEM's own commands: where each one is, and its line in `gem --help`, for which none is imported."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT, as shells count."""


class PluginGroup(click.Group):
    """A group with room for the commands of plugins, which are imported when they are used.

    An entry `eval.suite` of the group `gem.commands` is the command `suite` of `gem eval`; in the
    same way a plugin's group takes commands of other plugins.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name GEM's own commands in their order, then those of plugins."""
        own = self.own_commands(ctx)
        return [*own, *sorted(set(plugin_commands(ctx)) - set(own))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that was asked for."""
        if cmd_name in self.own_commands(ctx):
            return self.own_command(ctx, cmd_name)
        entries = plugin_commands(ctx).get(cmd_name)
        return _load_command(entries) if entries else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is an error with the nearest names and the whole list."""
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            from gemcore.errors import unknown_name

            raise unknown_name("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands; those of plugins from metadata, so that `--help` imports none of them."""
        own = self.own_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl(list(own.items()))
        extra = {n: e for n, e in plugin_commands(ctx).items() if n not in own}
        if extra:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(
                    [
                        (name, "from " + " and from ".join(entry.origin for entry in entries))
                        for name, entries in sorted(extra.items())
                    ]
                )

    def own_commands(self, ctx: click.Context) -> dict[str, str]:
        """GEM's own commands in this group, each with its line in the help."""
        return {name: command.get_short_help_str(80) for name, command in self.commands.items()}

    def own_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """One of GEM's own commands in this group."""
        return super().get_command(ctx, name)


class LazyGroup(PluginGroup):
    """A group that imports its own commands, too, only when they are used.

    Args:
        table: for each command where it is, `"module:attribute"`, and its line in the help.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.table = table

    def own_commands(self, ctx: click.Context) -> dict[str, str]:
        """The group's own commands, from the table."""
        return {name: summary for name, (_, summary) in self.table.items()}

    def own_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one of the group's own commands."""
        from importlib import import_module

        module, _, attribute = self.table[name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


def plugin_commands(context: click.Context) -> dict[str, list[Entry]]:
    """Commands of installed plugins in the group of this context, by name; none is imported.

    Only those that the settings allow. A name with a dot belongs to the group before the dot, where
    there is one: GEM's own or a plugin's.
    """
    entries = _command_entries(context)
    groups = {*CORE_COMMANDS, *(entry.name for entry in entries)}
    here = _path_of(context)
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        group = _group_of(entry.name, groups)
        if group == here:
            found.setdefault(entry.name.removeprefix(f"{group}."), []).append(entry)
    return found


def _path_of(context: click.Context) -> str:
    """Names of the groups from GEM's own, left out, to this one, with dots between."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    return ".".join(names)


def _group_of(name: str, groups: Collection[str]) -> str:
    """The longest part before a dot of `name` that is a group; empty where there is none."""
    head, dot, _ = name.rpartition(".")
    while dot and head not in groups:
        head, dot, _ = head.rpartition(".")
    return head if dot else ""


def _command_entries(context: click.Context) -> list[Entry]:
    from gemcore.discovery import COMMAND_GROUP, HostSettings, find_entries

    found: list[Entry] | None = context.meta.get("gem.commands")
    if found is None:
        no_plugins = bool(context.find_root().params.get("no_plugins"))
        settings = HostSettings.from_environment(no_plugins=no_plugins)
        found = context.meta["gem.commands"] = [
            entry
            for entry in find_entries()
            if entry.group == COMMAND_GROUP and settings.refusal(entry) is None
        ]
    return found


def _load_command(entries: list[Entry]) -> click.Command:
    from gemcore.errors import PluginError, UsageError
    from gemcore.loading import import_plugin

    name = entries[0].name.replace(".", " ")
    if len(entries) > 1:
        origins = " and by ".join(entry.origin for entry in entries)
        raise UsageError(
            f"command '{name}' is claimed by {origins}: uninstall one, or allow one by GEM_PLUGINS"
        )
    entry = entries[0]
    title = f"command '{name}' of {entry.origin}"
    if entry.point is None:
        raise PluginError(f"{title} cannot be used: {entry.problem}")
    try:
        command, _ = import_plugin(entry.point)
    except PluginError as error:
        raise PluginError(f"{title} cannot be used: {error}") from error
    if not isinstance(command, click.Command):
        raise PluginError(
            f"{title} cannot be used: it is {type(command).__name__}, no click command"
        )
    return command


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from gemcore import __version__

        click.echo(f"gem {__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    table=CORE_COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="GEM_PLUGINS=a,b allows only these plugins; GEM_DEBUG=1 shows the traceback of a failure.",
)
@click.option(
    "--no-plugins",
    is_flag=True,
    is_eager=True,
    help="Load no plugins but GEM's own; comes before --help to leave theirs out there too.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@click.pass_context
def gem(context: click.Context, *, no_plugins: bool) -> None:
    """GEM: small language models on phones, boards and NPUs."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return
    if no_plugins:
        from gemcore.discovery import HostSettings
        from gemcore.plugins import host_settings

        settings = HostSettings.from_environment(no_plugins=True)
        context.with_resource(host_settings(settings))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `gem` and exit: 0 done, 1 failed, 2 asked for wrongly, 130 interrupted.

    Args:
        arguments: the command line without the program's name; None for this process's own.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        code = _guarded(lambda: gem.main(arguments, prog_name="gem", standalone_mode=False))
    sys.exit(code)


def _guarded(command: Callable[[], Any]) -> int:
    """Run `command` and turn whatever it raises into a sentence on stderr and an exit code."""
    try:
        result = command()
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except GemError as error:
        _complain(str(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        ended = isinstance(error.__cause__, EOFError)
        _complain("the input ended" if ended else "interrupted", show_traceback=False)
        return 1 if ended else INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from gemcore.cli.crash import describe_crash

        _complain(describe_crash(error))
        return 1
    return result if isinstance(result, int) else 0


def _complain(sentence: str, *, show_traceback: bool = True) -> None:
    if show_traceback and os.environ.get("GEM_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exc()
    click.echo(f"gem: {sentence}", err=True)


def _show_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    """Show a warning as its sentence alone; the line of code that raised it means nothing here."""
    click.echo(f"gem: warning: {message}", err=True)
