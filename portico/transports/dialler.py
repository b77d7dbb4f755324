"""Who is at the other end of a connection, where the network tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

from portico.core.principal import Principal

_DIALLER = "portico.dialler"


@dataclass(frozen=True, slots=True)
class Dialler:
    """``service`` is what was dialled, ``caller`` the name that the other end gives itself, which may be made up.

    ``principal`` is who that is, where the network vouches for it; then no credentials are needed.
    """

    service: str
    caller: str
    principal: Principal | None = None


def dialler_of(scope: Scope) -> Dialler | None:
    """Who has opened the connection of this request; None on a network that does not tell."""
    return cast("Dialler | None", scope.get("extensions", {}).get(_DIALLER))


def extension(dialler: Dialler | None) -> dict[str, object]:
    """What a connection adds to the ASGI extensions of its requests."""
    return {} if dialler is None else {_DIALLER: dialler}
