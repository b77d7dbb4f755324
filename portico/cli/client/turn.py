"""The display of one turn from its first event to its last, with the user's answers and interrupts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from portico.cli.client.api import Client, Event
from portico.cli.client.dialogue import DENY
from portico.cli.client.errors import ClientError, ProblemError
from portico.cli.client.keyboard import Presses, drain
from portico.cli.client.leave import Answer, Decide
from portico.cli.client.screen import Screen
from portico.cli.client.transcript import Piece, Transcript

INTERRUPT_SECONDS = 5.0
HURRY_SECONDS = 0.5
"""Seconds for the server to take the interrupt when the user leaves at once; otherwise the turn would continue."""
WAITING_SECONDS = 0.5


@dataclass(slots=True)
class Outcome:
    """The end of a turn, as far as we have seen it.

    ``stop_reason`` comes from its ``complete``, or is None. ``interrupted``: the user pressed Ctrl-C; ``left``: twice.
    ``failed`` is the reason why we have not seen the end.
    """

    stop_reason: str | None = None
    interrupted: bool = False
    left: bool = False
    failed: ClientError | None = None


class TurnView:
    """One turn of ``session_id`` on ``screen``. ``raw``: print events unchanged, one a line, instead of text.

    ``settled``: ids of permission requests that are known to be resolved.
    """

    def __init__(
        self,
        client: Client,
        session_id: str,
        turn_id: str,
        screen: Screen,
        decide: Decide,
        *,
        raw: bool = False,
        settled: Collection[str] = (),
    ) -> None:
        self._client = client
        self._session_id = session_id
        self._turn_id = turn_id
        self._screen = screen
        self._decide = decide
        self._raw = raw
        self._settled = settled
        self._transcript = Transcript()
        self._asking: dict[str, CancelScope] = {}
        self._begun = False
        self._outcome = Outcome()

    async def show(self, events: AsyncGenerator[Event, None], presses: Presses) -> Outcome:
        """Show the turn until it is complete, cannot be followed any longer, or the user leaves it."""
        drain(presses)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, presses, tasks.cancel_scope)
            try:
                async with aclosing(events):
                    async for event in events:
                        self._see(event, tasks)
            except ClientError as error:
                self._outcome.failed = error
            tasks.cancel_scope.cancel()
        self._screen.break_line()
        return self._outcome

    def _see(self, event: Event, tasks: TaskGroup) -> None:
        self._begun = self._begun or event["type"] != "query"
        pieces = self._transcript.feed(event)
        if self._raw:
            pieces = [piece for piece in pieces if piece.kind == "error"]
            self._screen.json(event)
        self._screen.show(piece for piece in pieces if piece.kind not in ("query", "begun"))  # they are there already
        match event["type"]:
            case "query":
                tasks.start_soon(self._tell_waiting)
            case "permission_request" if event["request_id"] not in self._settled:
                # Register it now: its resolution may come before the task has begun.
                scope = self._asking[event["request_id"]] = CancelScope()
                tasks.start_soon(self._ask, event, scope)
            case "permission_resolved":
                self._resolved(event)
            case "complete":
                self._outcome.stop_reason = event["stop_reason"]

    async def _tell_waiting(self) -> None:
        """Report that the turn waits behind another. A wait of only a moment is not worth a message."""
        await anyio.sleep(WAITING_SECONDS)
        if self._begun:
            return
        with suppress(ClientError):  # if the server is away, the stream reports it
            if (await self._client.session(self._session_id))["queued"] and not self._begun:
                self._screen.note("waiting for the turn before this one to end; Ctrl-C withdraws this one")

    async def _ask(self, request: Event, scope: CancelScope) -> None:
        request_id = request["request_id"]
        with scope:
            if scope.cancel_called:
                return
            refused: list[Answer] = []
            while True:
                answer = await self._decide(request)
                if answer in refused:  # it would be refused again
                    answer = DENY
                if self._asking.pop(request_id, None) is None:
                    return  # resolved while the user answered
                # From now on, a resolution is our own answer.
                try:
                    await self._client.answer(self._session_id, request_id, answer)
                    return
                except ClientError as error:
                    self._screen.note(f"the answer did not count: {error}", "yellow")
                    code = error.code if isinstance(error, ProblemError) else None
                if code not in ("not_allowed", "invalid_answer"):
                    return
                # The request still waits.
                if request.get("kind", "tool") == "tool":  # the operator would not allow another "yes" either
                    with suppress(ClientError):
                        await self._client.answer(self._session_id, request_id, DENY)
                    return
                refused.append(answer)
                self._asking[request_id] = scope

    def _resolved(self, event: Mapping[str, Any]) -> None:
        if scope := self._asking.pop(event["request_id"], None):
            scope.cancel()
            who = f"{event['principal']} said" if event.get("principal") else event["reason"]
            self._screen.note(f"  no answer is needed any more ({who}: {event['behavior']})", "yellow")

    async def _watch(self, presses: Presses, turn: CancelScope) -> None:
        await presses.receive()
        self._outcome.interrupted = True
        if self._client.lost:
            self._screen.note("given up; the turn may still run on the server", "yellow")
            turn.cancel()
            return
        answered = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._interrupt, answered)
            await presses.receive()
            self._outcome.left = True
            with anyio.move_on_after(HURRY_SECONDS):
                await answered.wait()
            tasks.cancel_scope.cancel()
        turn.cancel()

    async def _interrupt(self, answered: anyio.Event) -> None:
        self._screen.show([Piece("notice", "interrupting; Ctrl-C again leaves")])
        with anyio.move_on_after(INTERRUPT_SECONDS) as limit:
            try:
                await self._client.interrupt(self._session_id, self._turn_id, begun=self._begun)
            except ClientError as error:
                self._screen.note(f"the turn was not interrupted: {error}", "yellow")
        if limit.cancelled_caught:
            self._screen.note("the server does not react; Ctrl-C again leaves", "yellow")
        answered.set()
