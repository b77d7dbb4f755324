"""The count of the request bodies held in memory for each caller."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portico.core.intake import Held, Intake
from portico.transports.caller import caller_of

_STATE = "held"


class Holding:
    """Counts a request's body against its caller's share of ``intake`` until the answer begins, when it is handled."""

    def __init__(self, app: ASGIApp, intake: Intake) -> None:
        self._app = app
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        if caller is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = scope["state"][_STATE] = self._intake.open(caller.principal.name)

        def releasing(message: Message) -> Awaitable[None]:
            held.release()
            return send(message)

        try:
            await self._app(scope, receive, releasing)
        finally:
            held.release()


def held_of(request: Request) -> Held:
    """Return the count of this request; outside of `Holding`, one as if the caller sent nothing else."""
    held: Held | None = request.scope.get("state", {}).get(_STATE)
    return held if held is not None else Intake().open("")
