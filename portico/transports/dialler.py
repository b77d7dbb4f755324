"""The other end of a connection, on a network that reports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

from portico.core.principal import Principal

_DIALLER = "portico.dialler"


@dataclass(frozen=True, slots=True)
class Dialler:
    """The client that dialled ``service``. ``caller`` is the name that it gives itself, which may be made up.

    ``principal`` is set if the network vouches for the client; then it needs no credentials.
    """

    service: str
    caller: str
    principal: Principal | None = None


def dialler_of(scope: Scope) -> Dialler | None:
    """Return the client that opened the connection of this request; None on a network that does not report it."""
    return cast("Dialler | None", scope.get("extensions", {}).get(_DIALLER))


def extension(dialler: Dialler | None) -> dict[str, object]:
    """Return the entries that a connection adds to the ASGI extensions of its requests."""
    return {} if dialler is None else {_DIALLER: dialler}
