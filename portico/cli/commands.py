"""The command line: arguments in, one call, an exit status out. Errors are raised."""

from __future__ import annotations

from collections.abc import Mapping

import click

from portico import __version__
from portico.cli.client_commands import ask, chat, sessions, top
from portico.cli.plugin_commands import plugin, plugins_command
from portico.cli.server_commands import config, demo, doctor, openapi, serve
from portico.cli.token_commands import token
from portico.cli.with_settings import find_plugins
from portico.cli.ziti_commands import ziti
from portico.config.load import SettingsError


class _Commands(click.Group):
    """Portico's own commands, and those of plugins, which are loaded only when they are needed."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name) or self._others().get(name)

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self._others()])

    def _others(self) -> Mapping[str, click.Command]:
        try:
            return find_plugins({}, self.commands).registry.commands
        except SettingsError:  # a wrong setting is no reason to have no commands
            return {}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="portico")
def commands() -> None:
    """Long-lived Claude Code sessions on the network."""


for _command in (serve, demo, config, doctor, openapi, plugins_command, plugin, token, ask, chat, sessions, top, ziti):
    commands.add_command(_command)
