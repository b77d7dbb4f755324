"""The commands that talk to a running server: ask, chat, sessions, top."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from portico.cli.client.invocation import Invocation, this_program
from portico.cli.with_settings import data_folder, run_async
from portico.config.load import here, ziti_environment
from portico.config.origins import option
from portico.server.hardening import blank_arguments

if TYPE_CHECKING:
    from portico.cli.client.connection import Endpoint


Command = Callable[..., Any]


OF_A_SERVER = {
    "server": "http://HOST:PORT, https://HOST/PATH or unix:/PATH. Default: PORTICO_URL, else that of the data folder.",
    "token": "Your token. Default: PORTICO_TOKEN, else the data folder's.",
    "cafile": "PEM file with the authorities to trust on https. Default: PORTICO_CAFILE, else this machine's.",
    "data_dir": "The data folder of a server on this machine.",
    "ziti_identity": "Reach it over Ziti instead: file with your identity (see `portico ziti enroll`).",
    "ziti_service": "The service on the Ziti network to dial.",
}


def _session_id(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        form = "1 to 64 letters, digits, dots, underscores and hyphens, a letter or digit first"
        raise click.BadParameter(f"{value!r} is no session's id, which is {form}")
    return value


def _of_a_server(command: Command) -> Command:
    """Give a command the options for reaching a running server."""
    for name, text in reversed(OF_A_SERVER.items()):
        command = click.option(option(name), help=text)(command)
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


def _endpoint(
    server: str | None,
    token: str | None,
    cafile: str | None,
    data_dir: str | None,
    ziti_identity: str | None,
    ziti_service: str | None,
) -> Endpoint:
    from pathlib import Path

    from portico.cli.client.connection import find_endpoint
    from portico.ziti.overlay import Overlay

    overlay = None
    if ziti_identity or ziti_service:
        if not (ziti_identity and ziti_service):
            raise click.UsageError("--ziti-identity and --ziti-service go together")
        if server:
            raise click.UsageError("--server does not go with --ziti-service")
        overlay = Overlay(Path(ziti_identity).absolute(), ziti_service, ziti_environment(here()[0]))
    authorities = Path(cafile) if cafile else None
    return find_endpoint(
        here()[0], data_folder(data_dir), server=server, token=token, overlay=overlay, cafile=authorities
    )


def _taken(options: dict[str, Any]) -> tuple[Endpoint, Invocation]:
    """Return the server that ``options`` name, and how to reach it again; remove those options."""
    blank_arguments([option("token")])
    of_server = {name: options.pop(name) for name in OF_A_SERVER}
    given = [(option(name), value) for name, value in of_server.items() if value and name != "token"]  # never printed
    return _endpoint(**of_server), Invocation(this_program(), tuple(word for pair in given for word in pair))


@click.command()
@click.argument("text")
@click.option("--session", callback=_session_id, help="Ask this session, created if needed, not a temporary one.")
@click.option("--keep", is_flag=True, help="Leave the session open afterwards.")
@click.option("--allow", is_flag=True, help="Allow every tool that needs permission.")
@click.option("--json", "json_output", is_flag=True, help="Print the events, one JSON object a line.")
@click.option("--verbose", is_flag=True, help="Show thinking and tools even if standard error is no terminal.")
@_of_a_session
@_of_a_server
def ask(text: str, **options: Any) -> int | None:
    """Ask a running server TEXT (`-`: standard input) and print the answer as it streams."""
    from portico.cli.client.ask import ask as run

    endpoint, again = _taken(options)
    return run_async(partial(run, endpoint, text, again=again, **options))


@click.command()
@click.argument("session", callback=_session_id, required=False)
@_of_a_session
@_of_a_server
def chat(session: str | None, **options: Any) -> int | None:
    """Talk with a session of a running server: a new one, or the one with id SESSION."""
    from portico.cli.client.chat import chat as run

    endpoint, again = _taken(options)
    return run_async(partial(run, endpoint, session, again=again, **options))


@click.group(invoke_without_command=True)
@click.option("--all", "closed", is_flag=True, help="Include closed sessions.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object a line.")
@_of_a_server
@click.pass_context
def sessions(context: click.Context, /, closed: bool, json_output: bool, **of_server: Any) -> int | None:
    """List the sessions of a running server that are not closed, newest first."""
    from portico.cli.client.sessions import sessions as run

    if context.invoked_subcommand is not None:
        if closed or json_output:
            raise click.UsageError(f"--all and --json do not go with {context.invoked_subcommand}")
        context.default_map = {context.invoked_subcommand: of_server}
        return None
    return run_async(partial(run, _endpoint(**of_server), closed=closed, json_output=json_output))


@click.command()
@click.option("--once", is_flag=True, help="Show them once, as when there is no terminal.")
@_of_a_server
def top(once: bool, **of_server: Any) -> int | None:
    """Watch the open sessions of a running server, refreshed each second, until Ctrl-C."""
    from portico.cli.client.top import top as run

    return run_async(partial(run, _endpoint(**of_server), once=once))


@sessions.command()
@click.argument("session", callback=_session_id)
@click.option("--purge", is_flag=True, help="Delete its history and its workspace too.")
@_of_a_server
def close(session: str, purge: bool, **of_server: Any) -> int | None:
    """Close the session with id SESSION: its agent stops, its slot becomes free, its history stays."""
    from portico.cli.client.sessions import close as run

    return run_async(partial(run, _endpoint(**of_server), session, purge=purge))


@sessions.command()
@click.argument("session", callback=_session_id)
@_of_a_server
def export(session: str, **of_server: Any) -> int | None:
    """Print all events of the session with id SESSION, one JSON object a line."""
    from portico.cli.client.sessions import export as run

    return run_async(partial(run, _endpoint(**of_server), session))
