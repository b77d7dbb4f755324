"""The authenticators ``token`` (a secret names the caller) and ``none`` (everybody may do everything)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.core.principal import Authenticator
    from portico.plugins.context import Context


def _create_token(context: Context) -> Authenticator:
    from portico.core.principal import Principal
    from portico.plugins.token_auth.authenticator import TokenAuthenticator
    from portico.plugins.token_auth.first_token import first_token

    if tokens := context.settings.auth_tokens:
        callers = [(token.secret.get_secret_value(), Principal(token.name, token.admin)) for token in tokens]
    else:
        callers = [(first_token(context.data_dir), Principal("admin", admin=True))]
    return TokenAuthenticator(callers)


def _create_none(context: Context) -> Authenticator:
    from portico.plugins.token_auth.authenticator import Anyone

    return Anyone()


@hookimpl
def portico_authenticators() -> Mapping[str, Callable[[Context], Authenticator]]:
    return {"token": _create_token, "none": _create_none}
