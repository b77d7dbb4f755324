"""The commands about tokens: token, token new, token hash."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from portico.cli.with_settings import data_folder
from portico.config import values
from portico.config.load import needed
from portico.config.settings import accepts
from portico.config.values import Token


@click.group(invoke_without_command=True)
@click.option("--data-dir", help="The server's data folder.")
@click.pass_context
def token(context: click.Context, /, data_dir: str | None) -> None:
    """Print the admin token that was made at the first start; or make and hash tokens for `auth_tokens=@FILE`."""
    from portico.plugins.token_auth.first_token import read_token

    if context.invoked_subcommand is None:
        click.echo(read_token(needed(data_folder(data_dir))))
    elif data_dir is not None:
        raise click.UsageError(f"--data-dir does not go with {context.invoked_subcommand}")


@token.command("new")
@click.argument("name")
@click.option("--admin", is_flag=True, help="It may see and steer everybody's sessions.")
def new_token(name: str, admin: bool) -> None:
    """Print a new token's line, hashed, for the file; print its secret, only this once, to standard error."""
    import secrets

    secret = secrets.token_urlsafe(32)
    made = _token(f"{name}:{secret}{':admin' if admin else ''}")
    click.echo(made.line())
    click.echo(f"The secret, which is not shown again: {secret}", err=True)


@token.command("hash")
@click.argument("file", type=click.File("r", lazy=False), default="-")
def hash_tokens(file: Iterable[str]) -> None:
    """Print FILE (default: standard input), a file for `auth_tokens`, with its secrets hashed."""
    for line in file:
        text, comment = re.fullmatch(r"(.*?)((?:(?:^|\s)#.*)?)", line.rstrip("\n"), re.DOTALL).groups()  # type: ignore[union-attr]
        click.echo((_token(text.strip()).line() if text.strip() else "") + comment)


def _token(text: str) -> Token:
    try:
        made: Token = values.token(text)
    except ValueError:
        raise click.UsageError(f"a token is {accepts('auth_tokens')}") from None
    return made
