"""The commands that start a server, or tell how one would start: serve, demo, config, doctor, openapi."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from portico.cli.client.invocation import this_program
from portico.cli.with_settings import WithSettings, data_folder, load_settings, run_async
from portico.config.load import SettingsError, describe, here, needed
from portico.plugins.manager import Plugins

NOWHERE = "/nowhere"
"""A data folder that is not used."""


@click.command(cls=WithSettings)
@click.pass_obj
def serve(plugins: Plugins, /, **options: Any) -> int | None:
    """Serve sessions until Ctrl-C or SIGTERM. Every option is also a setting: see `portico config`."""
    from portico.server.app import serve as run
    from portico.server.logs import configure

    reload = partial(load_settings, plugins, options)
    loaded = reload()
    configure(loaded.settings.log_level, loaded.settings.log_format)

    async def ready(addresses: tuple[str, ...]) -> None:
        for address in addresses:
            click.echo(f"Portico is ready on {address}")

    return run_async(partial(run, loaded, plugins.registry, here()[0], ready=ready, reload=reload))


@click.command(cls=WithSettings)
@click.pass_obj
def demo(plugins: Plugins, /, **options: Any) -> int | None:
    """Serve at once, without a key: the real CLI on a scripted model that runs inside this process."""
    from portico.cli.demo import demo as run

    return run_async(
        partial(run, partial(load_settings, plugins, options), plugins.registry, here()[0], this_program())
    )


@click.command(cls=WithSettings)
@click.pass_obj
def config(plugins: Plugins, /, **options: Any) -> None:
    """Show the effective settings, secrets masked, and where each comes from."""
    rows = describe(load_settings(plugins, options))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:{widths[0]}}  {value:{min(widths[1], 48)}}  {source}")


@click.command(cls=WithSettings)
@click.option("--json", "json_output", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def doctor(plugins: Plugins, /, json_output: bool, **options: Any) -> int | None:
    """Find out what would stop `portico serve` from working here, and how to fix it. Changes nothing."""
    from portico.cli.doctor.examine import as_json, as_text, examine, settings_failures, status
    from portico.cli.doctor.finding import Finding, Place
    from portico.config.load import agent_environment

    needed(data_folder(options["data_dir"]))

    async def run() -> int:
        findings: dict[str, Finding]
        try:
            loaded = load_settings(plugins, options)
        except SettingsError as error:
            findings = settings_failures(error.lines)
        else:
            environment = agent_environment(loaded.settings, here()[0])
            findings = await examine(Place(loaded, plugins.registry, plugins.found, environment))
        for line in as_json(findings) if json_output else as_text(findings):
            click.echo(line)
        return status(findings)

    return run_async(run)


@click.command(cls=WithSettings)
@click.pass_obj
def openapi(plugins: Plugins, /, **options: Any) -> None:
    """Print the OpenAPI document of the API, for client generators, without the plugins' additions."""
    from portico.cli.api_document import api_document

    click.echo(json.dumps(api_document(load_settings(plugins, options, data_dir=NOWHERE).settings), indent=2))
