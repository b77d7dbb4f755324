"""The commands about plugins: plugins, plugin new."""

from __future__ import annotations

import shlex

import click

from portico.cli.with_settings import find_plugins, own_commands

PLUGIN_KINDS = ("transport", "driver", "store", "authenticator", "observer", "routes")


@click.command("plugins")
@click.option("--plugins", "modules", metavar="MODULES", help="Modules to load as plugins too, comma-separated.")
@click.option("--disabled-plugins", "disabled", metavar="NAMES", help="Plugins not to load, comma-separated.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object a line.")
def plugins_command(modules: str | None, disabled: str | None, json_output: bool) -> None:
    """List the plugins: their origin, what each registers, and why any failed."""
    from portico.plugins.plugin_listing import as_json, as_text

    chosen = {"plugins": modules, "disabled_plugins": disabled}
    found = find_plugins(chosen, own_commands(click.get_current_context())).found
    for line in as_json(found) if json_output else as_text(found):
        click.echo(line)


@click.group()
def plugin() -> None:
    """Make plugins of your own."""


@plugin.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(PLUGIN_KINDS), required=True, help="Kind of plugin to make.")
@click.option("--path", default=".", metavar="DIR", help="Folder to make it in. Default: the current one.")
def new_plugin(name: str, kind: str, path: str) -> None:
    """Write a package, portico-NAME, that works and passes its tests; yours to change."""
    from pathlib import Path

    from portico.core.errors import InvalidRequest
    from portico.plugins.scaffold import write_plugin

    plugins = find_plugins({}, own_commands(click.get_current_context()))
    offered = getattr(plugins.registry, kind if kind == "routes" else f"{kind}s")
    try:
        made = write_plugin(name, kind, Path(path), frozenset(offered) | {one.name for one in plugins.found})
    except InvalidRequest as error:
        raise click.UsageError(error.detail) from None
    except OSError as error:
        raise click.ClickException(f"it can't be written: {error}") from None
    click.echo(f"Made {made.distribution}. What to do next:\n")
    enter = f"cd {shlex.quote(str(made.folder))}"
    for line in (enter, "pip install -e '.[test]'", "pytest", "portico plugins", made.use):
        click.echo(f"    {line}")
