"""The interface of transports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from portico.core.errors import Unavailable

if TYPE_CHECKING:
    from anyio.abc import TaskStatus
    from starlette.routing import BaseRoute

    from portico.core.sessions import Sessions


class TransportFailed(Unavailable):
    """A transport can't start; the detail is one sentence for the operator."""

    code = "transport_failed"


class Transport(Protocol):
    """Makes the engine reachable."""

    name: str

    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str]) -> None:
        """Serve until cancelled; call ``task_status.started(address)`` once reachable.

        Raises `TransportFailed` if it cannot start. When the engine begins to drain, go on serving; the cancellation
        comes after the drain. Once cancelled, end all streams and connections within seconds.
        """


class Routes(Protocol):
    """Routes beside the API, on every HTTP-speaking transport."""

    def routes(self, engine: Sessions) -> Sequence[BaseRoute]:
        """Return the routes. Called once for each transport that serves them.

        `portico.transports.auth.principal_of` returns the caller of a request. Each route needs credentials and takes
        no ticket, unless its handler has another `portico.transports.admission`.

        An error of `portico.core.errors` that an endpoint raises is answered as a problem document. A response that
        streams the events of an `Engine.reader` ends together with the reader when the server stops.
        """
