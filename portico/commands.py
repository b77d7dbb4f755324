"""The command line: arguments in, one call, an exit status out. What goes wrong is raised."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import click

from portico import __version__
from portico.cli import STOPPED
from portico.client.invocation import Invocation, this_program
from portico.config.load import Loaded, data_dir, describe, here, load
from portico.config.origins import option
from portico.config.settings import Settings, accepts

if TYPE_CHECKING:
    from pathlib import Path

    from portico.client.connection import Endpoint

Command = Callable[..., Any]


def _with_settings(command: Command) -> Command:
    """Give a command one option for each setting; they arrive as ``options``, checked by nobody yet."""
    for name, field in reversed(Settings.model_fields.items()):
        text = f"{field.description} [{accepts(name)}]"
        command = click.option(option(name), name, metavar="VALUE", help=text)(command)
    return command


def _load(options: Mapping[str, Any], **overrides: Any) -> Loaded:
    environ, folder = here()
    return load({**options, **overrides}, environ, folder)


def _run(function: Callable[[], Coroutine[Any, Any, int | None]]) -> int | None:
    try:
        return anyio.run(function, backend_options={"use_uvloop": sys.platform != "win32"})
    except KeyboardInterrupt:
        return STOPPED


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="portico")
def commands() -> None:
    """Long-lived Claude Code sessions on the network."""


@commands.command()
@_with_settings
def serve(**options: Any) -> int | None:
    """Serve sessions until Ctrl-C or SIGTERM. Every option is also a setting: see `portico config`."""
    from portico.app import serve as run
    from portico.logs import configure

    loaded = _load(options)
    configure(loaded.settings.log_level, loaded.settings.log_format)

    async def ready(addresses: tuple[str, ...]) -> None:
        for address in addresses:
            click.echo(f"Portico is ready on {address}")

    return _run(partial(run, loaded, here()[0], ready=ready))


@commands.command()
@_with_settings
def demo(**options: Any) -> int | None:
    """Serve at once, without a key: the real CLI on a scripted model that runs inside this process."""
    from portico.demo import demo as run

    return _run(partial(run, partial(_load, options), here()[0], this_program()))


@commands.command()
@_with_settings
def config(**options: Any) -> None:
    """Show the effective settings, secrets masked, and where each comes from."""
    rows = describe(_load(options))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:{widths[0]}}  {value:{min(widths[1], 48)}}  {source}")


@commands.command()
@click.option("--data-dir", help="The server's data folder.")
def token(data_dir: str | None) -> None:
    """Print the admin token that was made at the first start."""
    from portico.plugins.token_auth.first_token import read_token

    click.echo(read_token(_data_dir(data_dir)))


def _data_dir(given: str | None) -> Path:
    return data_dir({"data_dir": given}, *here())


def _session_id(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        form = "1 to 64 letters, digits, dots, underscores and hyphens, a letter or digit first"
        raise click.BadParameter(f"{value!r} is no session's id, which is {form}")
    return value


def _of_a_server(command: Command) -> Command:
    """Give a command what it needs to reach a running server."""
    for name, text in (
        ("--data-dir", "The data folder of a server on this machine."),
        ("--token", "Your token. Default: PORTICO_TOKEN, else the data folder's."),
        ("--server", "http://HOST:PORT or unix:/PATH. Default: PORTICO_URL, else the server of the data folder."),
    ):
        command = click.option(name, help=text)(command)
    return command


def _of_a_session(command: Command) -> Command:
    for name, text in (
        ("--cwd", "Folder of a new session, on the server."),
        ("--permission-mode", "Permission mode of the session, from now on."),
        ("--model", "Model of the session, from now on."),
        ("--title", "Title of the session, from now on."),
    ):
        command = click.option(name, help=text)(command)
    return command


def _endpoint(server: str | None, token: str | None, data_dir: str | None) -> Endpoint:
    from portico.client.connection import find_endpoint

    return find_endpoint(here()[0], _data_dir(data_dir), server=server, token=token)


def _again(server: str | None, data_dir: str | None) -> Invocation:
    """Leads to the same server once more; whoever gave a token knows it, and it is not to be printed."""
    given = {"--server": server, "--data-dir": data_dir}
    options = [word for name, value in given.items() if value for word in (name, value)]
    return Invocation(this_program(), tuple(options))


@commands.command()
@click.argument("text")
@click.option("--session", callback=_session_id, help="Ask this session, made if need be, instead of a temporary one.")
@click.option("--keep", is_flag=True, help="Leave the session open afterwards.")
@click.option("--allow", is_flag=True, help="Allow every tool that needs leave.")
@click.option("--json", "json_output", is_flag=True, help="Print the events, one JSON object a line.")
@click.option("--verbose", is_flag=True, help="Show thinking and tools also where standard error is no terminal.")
@_of_a_session
@_of_a_server
def ask(text: str, server: str | None, token: str | None, data_dir: str | None, **options: Any) -> int | None:
    """Ask a running server TEXT (`-`: standard input) and print the answer as it streams."""
    from portico.client.ask import ask as run

    endpoint, again = _endpoint(server, token, data_dir), _again(server, data_dir)
    return _run(partial(run, endpoint, text, again=again, **options))


@commands.command()
@click.argument("session", callback=_session_id, required=False)
@_of_a_session
@_of_a_server
def chat(
    session: str | None, server: str | None, token: str | None, data_dir: str | None, **options: Any
) -> int | None:
    """Talk with a session of a running server: a new one, or the one of id SESSION."""
    from portico.client.chat import chat as run

    endpoint, again = _endpoint(server, token, data_dir), _again(server, data_dir)
    return _run(partial(run, endpoint, session, again=again, **options))


@commands.group(invoke_without_command=True)
@click.option("--all", "closed", is_flag=True, help="Also those that are closed.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object a line.")
@_of_a_server
@click.pass_context
def sessions(context: click.Context, /, closed: bool, json_output: bool, **of_server: Any) -> int | None:
    """List the sessions of a running server that are not closed, newest first."""
    from portico.client.sessions import sessions as run

    if context.invoked_subcommand is not None:
        if closed or json_output:
            raise click.UsageError(f"--all and --json do not go with {context.invoked_subcommand}")
        context.default_map = {context.invoked_subcommand: of_server}
        return None
    return _run(partial(run, _endpoint(**of_server), closed=closed, json_output=json_output))


@sessions.command()
@click.argument("session", callback=_session_id)
@click.option("--purge", is_flag=True, help="Delete its history and its workspace too.")
@_of_a_server
def close(session: str, purge: bool, **of_server: Any) -> int | None:
    """Close the session of id SESSION: its agent is stopped, its place is free, its history stays."""
    from portico.client.sessions import close as run

    return _run(partial(run, _endpoint(**of_server), session, purge=purge))


@sessions.command()
@click.argument("session", callback=_session_id)
@_of_a_server
def export(session: str, **of_server: Any) -> int | None:
    """Print all events of the session of id SESSION, one JSON object a line."""
    from portico.client.sessions import export as run

    return _run(partial(run, _endpoint(**of_server), session))
