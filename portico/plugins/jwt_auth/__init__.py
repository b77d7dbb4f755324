"""The authenticator ``jwt``: callers present JSON Web Tokens (RFC 7519) from an OpenID Connect issuer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from pydantic import BaseModel

    from portico.core.principal import Authenticator
    from portico.plugins.context import Context


def _create(context: Context) -> Authenticator:
    from portico.core.errors import Unavailable

    try:
        from portico.plugins.jwt_auth.authenticator import create
    except ImportError as error:
        detail = f"the authenticator jwt needs pyjwt and cryptography ({error}): pip install 'portico-server[jwt]'"
        raise Unavailable(detail, code="jwt_not_installed") from None
    return create(context)


@hookimpl
def portico_authenticators() -> Mapping[str, Callable[[Context], Authenticator]]:
    return {"jwt": _create}


@hookimpl
def portico_settings() -> Mapping[str, type[BaseModel]]:
    from portico.plugins.jwt_auth.jwt_settings import JwtSettings

    return {"jwt": JwtSettings}
