"""The built-in authenticator ``token`` does what every one has to do.

``none`` is no case for the suite: it knows everybody by nothing, so there is no secret to know or to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping

from portico.core.principal import Principal
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.testing.authenticator import AuthenticatorConformance


class TestTokenAuthenticator(AuthenticatorConformance):
    def create(self) -> TokenAuthenticator:
        return TokenAuthenticator(self.known().items())

    def known(self) -> Mapping[str, Principal]:
        return {
            "alice-secret-0123456789": Principal("alice"),
            "alice-secret-0123456789ab": Principal("alina"),  # begins like another
            "b0b/Schlüssel~": Principal("bob"),
            "2XV0hFuh3K5v8fYz_Ck-pgJ7m1nY0a4sQ9rTtWbEoLU": Principal("ops", admin=True),
        }
