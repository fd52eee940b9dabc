"""`gem plugins new`, `validate`, `install` and `uninstall`: from nothing to an installed plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gemcore.validation.report import Finding

NEW_KINDS = ("router", "quantizer", "metric", "target", "benchmark")


@click.command()
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(NEW_KINDS), help="What the plugin offers.")
@click.option("--author", help="For the licence; git's user.name if not given.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to make; gem-NAME in this one if not given.",
)
def new(name: str, kind: str, author: str | None, output: Path | None) -> None:
    """Write a new plugin NAME: a package that works, with tests, and may be published.

    The folder must not be there yet: nothing is ever overwritten.
    """
    from gemcore.plugins import get_host
    from gemcore.scaffold.names import plugin_names
    from gemcore.scaffold.write import record_kind, write_plugin

    taken = {record.name for record in get_host().records(record_kind(kind))}
    names = plugin_names(name, kind, taken)
    author = author or _git_user() or f"the authors of {names.distribution}"
    folder = write_plugin(kind, names, author, output or Path(names.distribution))
    click.echo(f"wrote {folder}: the {kind} '{names.record}' is in {names.package}/{kind}.py")
    for comment, command in (
        ("installs it here, so that changes count at once", f"gem plugins install -e {folder}"),
        ("tests it", f"python -m pytest {folder}"),
        ("says whether it is fit to publish", f"gem plugins validate {folder}"),
    ):
        click.echo(f"  {command:<50} {comment}")


@click.command()
@click.argument("plugin")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quick", is_flag=True, help="Leave out the checks that compile a model.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="Seconds that the checks of what it offers may take.",
)
def validate(plugin: str, *, as_json: bool, quick: bool, timeout: float) -> None:
    """Say whether PLUGIN is sound: an installed plugin's name, or the folder of one.

    Its metadata; what importing it costs, prints and changes; its options; and the conformance checks of
    everything that it offers. Its code runs in processes of its own, with a time limit.
    """
    from gemcore.validation.report import count_failures, lines
    from gemcore.validation.run import validate_plugin

    shown: list[Finding] = []

    def show(finding: Finding) -> None:
        shown.append(finding)
        if not as_json:
            for line in lines(finding):
                click.echo(line)

    title = validate_plugin(plugin, show, quick=quick, timeout=timeout)
    failures = count_failures(shown)
    if as_json:
        import attrs

        findings = [attrs.asdict(finding) for finding in shown]
        click.echo(
            json.dumps({"plugin": title, "sound": not failures, "findings": findings}, indent=2)
        )
    else:
        told = (
            f"{failures} check{'s' if failures > 1 else ''} failed" if failures else "it is sound"
        )
        click.echo(f"{title}: {told}")
    click.get_current_context().exit(1 if failures else 0)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("packages", nargs=-1, required=True, type=click.UNPROCESSED)
def install(packages: tuple[str, ...]) -> None:
    """Install plugins beside GEM, as pip does: PACKAGES are names, folders, wheels or pip's options."""
    from gemcore.cli.pip import installed_plugins, run_pip

    before = installed_plugins()
    run_pip("install", *packages)
    after = installed_plugins()
    changed = sorted(name for name, version in after.items() if before.get(name) != version)
    for name in changed:
        click.echo(f"installed {name} {after[name]}: see gem plugins show {name}")
    if not changed:
        click.echo("no plugin is new here: see gem plugins list")


@click.command()
@click.argument("plugins", nargs=-1, required=True)
def uninstall(plugins: tuple[str, ...]) -> None:
    """Uninstall PLUGINS, named by their distribution, package or short name."""
    from gemcore.cli.pip import distribution_of, run_pip

    distributions = [distribution_of(name) for name in plugins]
    run_pip("uninstall", "--yes", *distributions)
    for name in distributions:
        click.echo(f"uninstalled {name}")


def _git_user() -> str:
    """The name that git signs with here; empty where it knows none."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
