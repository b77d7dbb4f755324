"""The conversation over one connection: events in one direction, a client's messages in the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio

from portico.core.events import Event, encode_json
from portico.core.intake import Intake
from portico.core.principal import Principal
from portico.core.reader import Reader
from portico.core.sessions import Sessions
from portico.transports.caller import Caller
from portico.transports.peer import Peer, Pieces
from portico.transports.streams import Streams

Answer = Mapping[str, Any]


class Conversation:
    """Sends the events of a reader, and meanwhile handles the client's messages, one after another.

    It is bound to one session to the end: a later session of the same id is unknown to it.

    Subclasses implement `_hear`, which handles a message.
    """

    def __init__(
        self,
        peer: Peer,
        engine: Sessions,
        streams: Streams,
        principal: Principal,
        session_id: str,
        *,
        caller: Caller | None = None,
        intake: Intake | None = None,
        subagents: bool = True,
        max_event: int | None = None,
    ) -> None:
        """``caller`` is the caller behind ``principal``, if it is known. ``intake`` is that of the whole server.

        Without ``subagents``, what these say and do is left out. Events with more bytes than ``max_event`` are cut.
        """
        self._peer = peer
        self._engine = engine
        self._streams = streams
        self._principal = principal  # `run` binds it to the session
        self._caller = caller
        self._intake = intake or Intake()
        self._session_id = session_id
        self._subagents = subagents
        self._max_event = max_event
        self._reader: Reader | None = None
        self._next: tuple[Reader, Answer | None, anyio.Event] | None = None
        self._end: Exception | None = None

    async def run(self, after: int | None) -> None:
        """Send the events after ``after`` (None: those from now on), until there is nothing more to read.

        It also ends once the credentials of ``caller`` are no longer valid (``caller.over``), whatever is under way.
        Raises the error that otherwise ends it: a `PorticoError`, or the peer's error when the client has gone.
        """
        with self._streams.hold(self._principal), self._streams.admitted(self._caller):
            self._principal = await self._engine.bind(self._principal, self._session_id)
            reader = await self._begin(after)
            async with anyio.create_task_group() as tasks:
                for half in (partial(self._speak, reader), self._listen):
                    tasks.start_soon(self._half, half, tasks.cancel_scope)
        if self._end is not None:
            raise self._end

    async def _half(self, half: Callable[[], Awaitable[None]], both: anyio.CancelScope) -> None:
        try:
            await half()
        except Exception as end:
            self._end = self._end or end
        both.cancel()

    async def _begin(self, after: int | None) -> Reader:
        if after is None:
            after = (await self._engine.session(self._principal, self._session_id))["last_seq"]
        return await self._engine.reader(self._principal, self._session_id, after=after)

    async def _speak(self, reader: Reader) -> None:
        await self._follow(reader)
        while self._next is not None:
            (reader, answer, switched), self._next = self._next, None
            if answer is not None:
                await self._tell(answer)
            switched.set()
            await self._follow(reader)

    async def _follow(self, reader: Reader) -> None:
        self._reader = reader
        if not self._subagents:
            reader.leave_out_subagents()
        with self._streams.following(reader, "websocket"):
            while self._next is None and (events := await reader.read()):
                if self._next is None:
                    await self._pass_on(self._select(events), reader)

    async def _pass_on(self, events: Sequence[Event], reader: Reader) -> None:
        fitting = events
        if self._max_event is not None:
            fitting = await self._streams.cutter.fitting(events, self._max_event, reader.life)
        texts = self._streams.texts(events) if fitting is events else [event.data for event in fitting]
        if texts:
            await self._peer.send(texts)

    def _select(self, events: Sequence[Event]) -> Sequence[Event]:
        return events

    async def _tell(self, answer: Answer) -> None:
        told = encode_json(answer)
        if self._max_event is not None:
            told = await self._streams.cutter.fitted(told, self._max_event)
        await self._peer.send([told])

    async def _switch(self, reader: Reader, answer: Answer | None) -> None:
        """Send ``answer``, and then the events of ``reader`` in place of those of the present reader."""
        switched = anyio.Event()
        self._next = (reader, answer, switched)
        if self._reader is not None:
            self._reader.stop()
        await switched.wait()

    def _check_query(self) -> None:
        """Raise `NotAllowed` if the client may only read."""
        if self._caller is not None:
            self._caller.check_query()

    async def _listen(self) -> None:
        while True:
            await self._hear(await self._peer.receive())

    async def _hear(self, message: str | Pieces) -> None:
        raise NotImplementedError
