"""The command line: arguments in, one call, an exit status out. 0 is success, 1 failure, 2 wrong usage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import click

from portico import __version__
from portico.config.load import Loaded, SettingsError, describe, here, load
from portico.config.origins import option
from portico.config.settings import Settings, accepts
from portico.core.errors import PorticoError

if TYPE_CHECKING:
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
    try:
        return load({**options, **overrides}, environ, folder)
    except SettingsError as error:
        _refuse(error)


def _refuse(error: SettingsError) -> NoReturn:
    for line in error.lines:
        click.echo(f"portico: {line}", err=True)
    sys.exit(2)


@contextmanager
def _without_traceback() -> Iterator[None]:
    """A user's mistake or a failing part ends in one line; a fault of ours keeps its traceback."""
    try:
        yield
    except SettingsError as error:
        _refuse(error)
    except (PorticoError, ExceptionGroup) as error:
        causes = list(_leaves(error))
        if not all(isinstance(cause, PorticoError) for cause in causes):
            raise
        for cause in causes:
            click.echo(f"portico: {cause}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _run(function: Callable[[], Coroutine[Any, Any, int | None]]) -> None:
    with _without_traceback():
        status = anyio.run(function, backend_options={"use_uvloop": sys.platform != "win32"})
        sys.exit(status or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="portico")
def main() -> None:
    """Long-lived Claude Code sessions on the network."""


@main.command()
@_with_settings
def serve(**options: Any) -> None:
    """Serve sessions until Ctrl-C or SIGTERM. Every option is also a setting: see `portico config`."""
    from portico.app import serve as run
    from portico.logs import configure

    loaded = _load(options)
    configure(loaded.settings.log_level, loaded.settings.log_format)

    async def ready(addresses: tuple[str, ...]) -> None:
        for address in addresses:
            click.echo(f"Portico is ready on {address}")

    _run(partial(run, loaded, here()[0], ready=ready))


@main.command()
@_with_settings
def demo(**options: Any) -> None:
    """Serve at once, without a key: the real CLI on a scripted model that runs inside this process."""
    from portico.demo import demo as run

    _run(partial(run, partial(_load, options), here()[0]))


@main.command()
@_with_settings
def config(**options: Any) -> None:
    """Show the effective settings, secrets masked, and where each comes from."""
    rows = describe(_load(options))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:{widths[0]}}  {value:{min(widths[1], 48)}}  {source}")


@main.command()
@click.option("--data-dir", help="The server's data folder.")
def token(data_dir: str | None) -> None:
    """Print the admin token that was made at the first start."""
    from portico.plugins.token_auth.first_token import read_token

    folder = _load({"data_dir": data_dir}).settings.data_dir
    with _without_traceback():
        click.echo(read_token(folder))


def _of_a_server(command: Command) -> Command:
    """Give a command what it needs to reach a running server."""
    command = click.option("--data-dir", help="The data folder of a server on this machine.")(command)
    command = click.option("--token", help="Your token. Default: PORTICO_TOKEN, else the data folder's.")(command)
    return click.option(
        "--server", help="http://HOST:PORT or unix:/PATH. Default: PORTICO_URL, else the server of the data folder."
    )(command)


def _of_a_session(command: Command) -> Command:
    for name, text in (
        ("--cwd", "Folder of a new session, on the server."),
        ("--permission-mode", "Permission mode of a new session."),
        ("--model", "Model of a new session."),
        ("--title", "Title of a new session."),
    ):
        command = click.option(name, help=text)(command)
    return command


def _endpoint(server: str | None, token: str | None, data_dir: str | None) -> Endpoint:
    from portico.client.connection import find_endpoint
    from portico.client.errors import EndpointError

    folder = _load({"data_dir": data_dir}).settings.data_dir
    try:
        return find_endpoint(here()[0], folder, server=server, token=token)
    except EndpointError as error:
        click.echo(f"portico: {error}", err=True)
        sys.exit(1)


@main.command()
@click.argument("text")
@click.option("--session", help="Ask this session, made if need be, instead of one that is closed afterwards.")
@click.option("--keep", is_flag=True, help="Leave the session open afterwards.")
@click.option("--allow", is_flag=True, help="Allow every tool that needs leave.")
@click.option("--json", "json_output", is_flag=True, help="Print the events, one JSON object a line.")
@click.option("--verbose", is_flag=True, help="Show thinking and tools also where standard error is no terminal.")
@_of_a_session
@_of_a_server
def ask(text: str, server: str | None, token: str | None, data_dir: str | None, **options: Any) -> None:
    """Ask a running server TEXT (`-`: standard input) and print the answer as it streams."""
    from portico.client.ask import ask as run

    _run(partial(run, _endpoint(server, token, data_dir), text, **options))


@main.command()
@click.argument("session", required=False)
@_of_a_session
@_of_a_server
def chat(session: str | None, server: str | None, token: str | None, data_dir: str | None, **options: Any) -> None:
    """Talk with a session of a running server: a new one, or the one of id SESSION."""
    from portico.client.chat import chat as run

    _run(partial(run, _endpoint(server, token, data_dir), session, **options))


@main.command()
@click.option("--json", "json_output", is_flag=True, help="One JSON object a line.")
@_of_a_server
def sessions(server: str | None, token: str | None, data_dir: str | None, json_output: bool) -> None:
    """List the sessions of a running server, newest first."""
    from portico.client.sessions import sessions as run

    _run(partial(run, _endpoint(server, token, data_dir), json_output=json_output))
