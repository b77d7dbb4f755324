"""``portico ziti`` on the command line."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import anyio
import click

from portico.cli.client.invocation import Invocation, this_program
from portico.config.load import here, ziti_environment

if TYPE_CHECKING:
    from portico.ziti.setup.plan import Plan
    from portico.ziti.setup.setup import Setup

PASSWORD = "ZITI_PWD"  # noqa: S105  # the name of the variable, as in the controller's own tools
A_PATH = click.Path(path_type=Path)


@click.group()
def ziti() -> None:
    """Set up a server, and the identities that dial it, on a Ziti network."""


@ziti.command()
@click.argument("token_file", metavar="JWT_FILE", type=A_PATH)
@click.option("--out", required=True, metavar="FILE", type=A_PATH, help="File to write the identity to.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def enroll(token_file: Path, out: Path, force: bool) -> None:
    """Trade the one-time token in JWT_FILE for an identity, in a file that you alone can read."""
    from portico.ziti.setup.enroll import enroll as run

    anyio.run(partial(run, token_file, out, ziti_environment(here()[0]), force=force))
    click.echo(f"{out} is enrolled. The token in {token_file} is used up.")


@ziti.command()
@click.option("--controller", required=True, metavar="URL", help="The controller's address, https://HOST:PORT.")
@click.option("--username", default="admin", show_default=True, help="An administrator of the network.")
@click.option(
    "--password",
    metavar="FILE",
    type=click.File(),
    help=f"File with the password; `-`: standard input. Default: {PASSWORD}, else you are asked for it.",
)
@click.option(
    "--ca", metavar="FILE", type=A_PATH, help="Authorities that may have signed the controller's certificate."
)
@click.option("--insecure", is_flag=True, help="Trust any certificate. Whoever answers gets the password.")
@click.option("--identity", "server", default="portico-server", show_default=True, help="The server's identity.")
@click.option("--person", "persons", multiple=True, metavar="NAME[:admin]", help="Gets an identity and a service.")
@click.option(
    "--group", "groups", multiple=True, metavar="NAME[:admin]", help="Gets a service for all with the attribute #NAME."
)
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME[=PRINCIPAL[:admin]]",
    help="A service, in the form of ZITI_SERVICE_NAME.",
)
@click.option(
    "--dialler", "diallers", multiple=True, metavar="[SERVICE=]IDENTITY|#ATTRIBUTE", help="Allowed to dial a service."
)
@click.option("--tokens", type=A_PATH, metavar="DIR", default=".", help="Where enrolment tokens go. Default: here.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def setup(
    controller: str,
    username: str,
    password: TextIO | None,
    ca: Path | None,
    insecure: bool,
    server: str,
    persons: tuple[str, ...],
    groups: tuple[str, ...],
    services: tuple[str, ...],
    diallers: tuple[str, ...],
    tokens: Path,
    dry_run: bool,
) -> None:
    """Make the identities, services and policies that do not exist yet on a Ziti network.

    --person, --group, --service and --dialler may be given many times. Nothing is ever removed.
    """
    from portico.ziti.setup.management import Management, trust
    from portico.ziti.setup.plan import make_plan
    from portico.ziti.setup.setup import Setup

    try:
        plan = make_plan(server, services, diallers, persons, groups)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with Management(controller, trust(ca, insecure=insecure)) as management:
        management.log_in(username, _password(username, password))
        done = Setup(management, tokens, click.echo, dry_run=dry_run)
        done.run(plan)
    if not dry_run:
        for line in _what_next(plan, done):
            click.echo(line)


def _password(username: str, given: TextIO | None) -> str:
    if given is not None:
        return given.readline().rstrip("\r\n")
    if password := here()[0].get(PASSWORD):
        return password
    if not sys.stdin.isatty():
        raise click.UsageError(f"there is no password: give --password, or {PASSWORD} in the environment")
    prompted: str = click.prompt(f"Password of {username}", hide_input=True, err=True)
    return prompted


def _what_next(plan: Plan, done: Setup) -> list[str]:
    me = Invocation(this_program())

    def enrolling(name: str) -> list[str]:
        token = done.pending.get(name)
        return [f"    {me.line('ziti', 'enroll', str(token), '--out', f'{name}.json')}"] if token else []

    identity = shlex.quote(str(Path(f"{plan.server}.json").absolute()))
    entries = shlex.quote(",".join(service.entry for service in plan.services))
    lines = ["", "The server, beside what it has bound already:", *enrolling(plan.server)]
    lines += [
        f"    {line}"
        for line in ("NETWORKING_MODE=ziti", f"ZITI_IDENTITY_FILE={identity}", f"ZITI_SERVICE_NAME={entries}")
    ]
    if plan.diallers:
        lines += ["", "Those who dial it:"]
    for who in plan.diallers:
        lines += enrolling(who)
    for service in plan.services:
        for who in service.diallers:
            file = f"{who}.json" if not who.startswith("#") else "IDENTITY.json"
            lines.append(f"    {me.line('chat', '--ziti-identity', file, '--ziti-service', service.name)}")
    return lines
