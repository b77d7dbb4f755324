"""The command line: arguments in, one call, an exit status out. What goes wrong is raised."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio
import click

from portico import __version__
from portico.cli.client.invocation import Invocation, this_program
from portico.cli.exit_status import STOPPED
from portico.cli.ziti_commands import ziti
from portico.config import values
from portico.config.load import (
    Loaded,
    SettingsError,
    data_dir,
    describe,
    here,
    load,
    plugin_choice,
    secret_options,
    ziti_environment,
)
from portico.config.origins import option
from portico.config.settings import Settings, accepts
from portico.config.values import Token
from portico.plugins.manager import Plugins, load_plugins
from portico.plugins.registry import PluginError, Registry
from portico.server.hardening import blank_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from portico.cli.client.connection import Endpoint

Command = Callable[..., Any]

PLUGIN_KINDS = ("transport", "driver", "store", "authenticator", "observer", "routes")


class _WithSettings(click.Command):
    """A command with one option for each setting, those of plugins too; they arrive unchecked, as ``options``."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        blank_arguments(secret_options())  # ``args`` is a copy
        context.obj = _plugins({name: _early(args, option(name)) for name in ("plugins", "disabled_plugins")})
        if isinstance(context.obj, Plugins):
            blank_arguments(secret_options(context.obj.registry.settings))
        return super().parse_args(context, args)

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        registry = context.obj.registry if isinstance(context.obj, Plugins) else Registry()
        texts = {name: f"{field.description} [{accepts(name)}]" for name, field in Settings.model_fields.items()}
        for prefix, model in registry.settings.items():
            texts |= {f"{prefix}_{name}": field.description or "" for name, field in model.model_fields.items()}
        options = [click.Option([option(name), name], metavar="VALUE", help=text) for name, text in texts.items()]
        return [*options, *super().get_params(context)]


def _early(args: Sequence[str], name: str) -> str | None:
    """The value of an option that must be known before it is known what options there are."""
    values = [value for before, value in pairwise(args) if before == name]
    values += [arg.partition("=")[2] for arg in args if arg.startswith(f"{name}=")]
    return values[-1] if values else None


def _plugins(options: Mapping[str, Any]) -> Plugins:
    environ, folder = here()
    modules, disabled = plugin_choice(options, environ, folder)
    reserved = {"setting": set(Settings.model_fields), "command": set(commands.commands)}
    try:
        return load_plugins(modules, disabled, folder=folder, reserved=reserved)
    except PluginError as error:
        raise SettingsError([f"disabled_plugins: {error}"]) from None


def _load(plugins: Plugins, options: Mapping[str, Any], **overrides: Any) -> Loaded:
    environ, folder = here()
    given = {**options, **overrides}
    return load(given, environ, folder, plugins=plugins.registry.settings, lenient=not plugins.complete)


def _run(function: Callable[[], Coroutine[Any, Any, int | None]]) -> int | None:
    try:
        return anyio.run(function, backend_options={"use_uvloop": sys.platform != "win32"})
    except KeyboardInterrupt:
        return STOPPED


class _Commands(click.Group):
    """Our own commands, and those of plugins: which are loaded only where they are asked for."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name) or self._others().get(name)

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self._others()])

    def _others(self) -> Mapping[str, click.Command]:
        try:
            return _plugins({}).registry.commands
        except SettingsError:  # a setting that is wrong, which is no reason to have no commands
            return {}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="portico")
def commands() -> None:
    """Long-lived Claude Code sessions on the network."""


commands.add_command(ziti)


@commands.command(cls=_WithSettings)
@click.pass_obj
def serve(plugins: Plugins, /, **options: Any) -> int | None:
    """Serve sessions until Ctrl-C or SIGTERM. Every option is also a setting: see `portico config`."""
    from portico.server.app import serve as run
    from portico.server.logs import configure

    load_settings = partial(_load, plugins, options)
    loaded = load_settings()
    configure(loaded.settings.log_level, loaded.settings.log_format)

    async def ready(addresses: tuple[str, ...]) -> None:
        for address in addresses:
            click.echo(f"Portico is ready on {address}")

    return _run(partial(run, loaded, plugins.registry, here()[0], ready=ready, reload=load_settings))


@commands.command(cls=_WithSettings)
@click.pass_obj
def demo(plugins: Plugins, /, **options: Any) -> int | None:
    """Serve at once, without a key: the real CLI on a scripted model that runs inside this process."""
    from portico.cli.demo import demo as run

    return _run(partial(run, partial(_load, plugins, options), plugins.registry, here()[0], this_program()))


@commands.command(cls=_WithSettings)
@click.pass_obj
def config(plugins: Plugins, /, **options: Any) -> None:
    """Show the effective settings, secrets masked, and where each comes from."""
    rows = describe(_load(plugins, options))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:{widths[0]}}  {value:{min(widths[1], 48)}}  {source}")


@commands.command(cls=_WithSettings)
@click.option("--json", "json_output", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def doctor(plugins: Plugins, /, json_output: bool, **options: Any) -> int | None:
    """Find out what would stop `portico serve` from working here, and how to mend it. Changes nothing."""
    from portico.cli.doctor.examine import as_json, as_text, examine, settings_failures, status
    from portico.cli.doctor.finding import Finding, Place
    from portico.config.load import agent_environment

    async def run() -> int:
        findings: dict[str, Finding]
        try:
            loaded = _load(plugins, options)
        except SettingsError as error:
            findings = settings_failures(error.lines)
        else:
            environment = agent_environment(loaded.settings, here()[0])
            findings = await examine(Place(loaded, plugins.registry, plugins.found, environment))
        for line in as_json(findings) if json_output else as_text(findings):
            click.echo(line)
        return status(findings)

    return _run(run)


@commands.command(cls=_WithSettings)
@click.pass_obj
def openapi(plugins: Plugins, /, **options: Any) -> None:
    """Print the OpenAPI document of the API, for client generators; without what plugins may add to it."""
    from portico.cli.api_document import api_document

    click.echo(json.dumps(api_document(_load(plugins, options).settings), indent=2))


@commands.command("plugins")
@click.option("--plugins", "modules", metavar="MODULES", help="Modules to load as plugins too, comma-separated.")
@click.option("--disabled-plugins", "disabled", metavar="NAMES", help="Plugins not to load, comma-separated.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object a line.")
def plugins_command(modules: str | None, disabled: str | None, json_output: bool) -> None:
    """List the plugins that are there: where from, what each registers, and what failed."""
    from portico.plugins.listing import as_json, as_text

    found = _plugins({"plugins": modules, "disabled_plugins": disabled}).found
    for line in as_json(found) if json_output else as_text(found):
        click.echo(line)


@commands.group()
def plugin() -> None:
    """Make plugins of your own."""


@plugin.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(PLUGIN_KINDS), required=True, help="What it is to offer.")
@click.option("--path", default=".", metavar="DIR", help="Where its folder is to lie. Default: here.")
def new_plugin(name: str, kind: str, path: str) -> None:
    """Write a package, portico-NAME, that works and passes its tests; yours to change."""
    from pathlib import Path

    from portico.core.errors import InvalidRequest
    from portico.plugins.scaffold import write_plugin

    plugins = _plugins({})
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


@commands.group(invoke_without_command=True)
@click.option("--data-dir", help="The server's data folder.")
@click.pass_context
def token(context: click.Context, /, data_dir: str | None) -> None:
    """Print the admin token that was made at the first start; or make and hash tokens for `auth_tokens=@FILE`."""
    from portico.plugins.token_auth.first_token import read_token

    if context.invoked_subcommand is None:
        click.echo(read_token(_data_dir(data_dir)))
    elif data_dir is not None:
        raise click.UsageError(f"--data-dir does not go with {context.invoked_subcommand}")


@token.command("new")
@click.argument("name")
@click.option("--admin", is_flag=True, help="It may see and steer everybody's sessions.")
def new_token(name: str, admin: bool) -> None:
    """Print the line of a new token, hashed, for the file; and its secret, this once, to standard error."""
    import secrets

    secret = secrets.token_urlsafe(32)
    made = _token(f"{name}:{secret}{':admin' if admin else ''}")
    click.echo(made.line())
    click.echo(f"The secret, which nobody can show again: {secret}", err=True)


@token.command("hash")
@click.argument("file", type=click.File("r", lazy=False), default="-")
def hash_tokens(file: Iterable[str]) -> None:
    """Print FILE (default: standard input), which is one of `auth_tokens`, with hashes for its secrets."""
    for line in file:
        text, comment = re.fullmatch(r"(.*?)((?:(?:^|\s)#.*)?)", line.rstrip("\n"), re.DOTALL).groups()  # type: ignore[union-attr]
        click.echo((_token(text.strip()).line() if text.strip() else "") + comment)


def _token(text: str) -> Token:
    try:
        made: Token = values.token(text)
    except ValueError:
        raise click.UsageError(f"a token is {accepts('auth_tokens')}") from None
    return made


def _data_dir(given: str | None) -> Path:
    return data_dir({"data_dir": given}, *here())


def _session_id(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        form = "1 to 64 letters, digits, dots, underscores and hyphens, a letter or digit first"
        raise click.BadParameter(f"{value!r} is no session's id, which is {form}")
    return value


OF_A_SERVER = {
    "server": "http://HOST:PORT or unix:/PATH. Default: PORTICO_URL, else the server of the data folder.",
    "token": "Your token. Default: PORTICO_TOKEN, else the data folder's.",
    "cafile": "PEM file with the authorities to trust on https. Default: PORTICO_CAFILE, else this machine's.",
    "data_dir": "The data folder of a server on this machine.",
    "ziti_identity": "Reach it over Ziti instead: file with your identity (see `portico ziti enroll`).",
    "ziti_service": "The service on the Ziti network to dial.",
}


def _of_a_server(command: Command) -> Command:
    """Give a command what it needs to reach a running server."""
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
        here()[0], _data_dir(data_dir), server=server, token=token, overlay=overlay, cafile=authorities
    )


def _taken(options: dict[str, Any]) -> tuple[Endpoint, Invocation]:
    """The server that ``options`` lead to, and how to get there once more; what names it is taken out of them."""
    blank_arguments([option("token")])
    of_server = {name: options.pop(name) for name in OF_A_SERVER}
    given = [(option(name), value) for name, value in of_server.items() if value and name != "token"]  # never printed
    return _endpoint(**of_server), Invocation(this_program(), tuple(word for pair in given for word in pair))


@commands.command()
@click.argument("text")
@click.option("--session", callback=_session_id, help="Ask this session, made if need be, instead of a temporary one.")
@click.option("--keep", is_flag=True, help="Leave the session open afterwards.")
@click.option("--allow", is_flag=True, help="Allow every tool that needs leave.")
@click.option("--json", "json_output", is_flag=True, help="Print the events, one JSON object a line.")
@click.option("--verbose", is_flag=True, help="Show thinking and tools also where standard error is no terminal.")
@_of_a_session
@_of_a_server
def ask(text: str, **options: Any) -> int | None:
    """Ask a running server TEXT (`-`: standard input) and print the answer as it streams."""
    from portico.cli.client.ask import ask as run

    endpoint, again = _taken(options)
    return _run(partial(run, endpoint, text, again=again, **options))


@commands.command()
@click.argument("session", callback=_session_id, required=False)
@_of_a_session
@_of_a_server
def chat(session: str | None, **options: Any) -> int | None:
    """Talk with a session of a running server: a new one, or the one of id SESSION."""
    from portico.cli.client.chat import chat as run

    endpoint, again = _taken(options)
    return _run(partial(run, endpoint, session, again=again, **options))


@commands.group(invoke_without_command=True)
@click.option("--all", "closed", is_flag=True, help="Also those that are closed.")
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
    return _run(partial(run, _endpoint(**of_server), closed=closed, json_output=json_output))


@commands.command()
@click.option("--once", is_flag=True, help="Show them once, as without a terminal.")
@_of_a_server
def top(once: bool, **of_server: Any) -> int | None:
    """Watch the open sessions of a running server, anew each second, until Ctrl-C."""
    from portico.cli.client.top import top as run

    return _run(partial(run, _endpoint(**of_server), once=once))


@sessions.command()
@click.argument("session", callback=_session_id)
@click.option("--purge", is_flag=True, help="Delete its history and its workspace too.")
@_of_a_server
def close(session: str, purge: bool, **of_server: Any) -> int | None:
    """Close the session of id SESSION: its agent is stopped, its place is free, its history stays."""
    from portico.cli.client.sessions import close as run

    return _run(partial(run, _endpoint(**of_server), session, purge=purge))


@sessions.command()
@click.argument("session", callback=_session_id)
@_of_a_server
def export(session: str, **of_server: Any) -> int | None:
    """Print all events of the session of id SESSION, one JSON object a line."""
    from portico.cli.client.sessions import export as run

    return _run(partial(run, _endpoint(**of_server), session))
