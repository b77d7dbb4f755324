"""The authenticators ``token`` (a secret names the caller) and ``none`` (everybody may do everything)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from portico.config.settings import Settings
    from portico.core.principal import Authenticator, Principal
    from portico.plugins.context import Context


def _create_token(context: Context) -> Authenticator:
    from portico.plugins.token_auth.authenticator import TokenAuthenticator

    authenticator = TokenAuthenticator(_callers(context.settings, context.data_dir))
    context.reloads.add("auth_tokens", lambda settings: authenticator.replace(_callers(settings, context.data_dir)))
    return authenticator


def _callers(settings: Settings, data_dir: Path) -> list[tuple[str | bytes, Principal]]:
    from portico.core.principal import Principal
    from portico.plugins.token_auth.first_token import first_token

    if tokens := settings.auth_tokens:
        return [(token.digest, Principal(token.name, token.admin)) for token in tokens]
    return [(first_token(data_dir), Principal("admin", admin=True))]


def _create_none(context: Context) -> Authenticator:
    from portico.plugins.token_auth.authenticator import Anyone

    return Anyone()


@hookimpl
def portico_authenticators() -> Mapping[str, Callable[[Context], Authenticator]]:
    return {"token": _create_token, "none": _create_none}
