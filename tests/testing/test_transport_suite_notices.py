"""Transports that break one rule each: the suite notices every one, by the test that states the rule."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from anyio import TypedAttributeProvider
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from portico.core.errors import Exhausted, NotFound, PorticoError, Unauthenticated, Unavailable
from portico.core.principal import Principal
from portico.core.reader import Reader
from portico.core.requests import NewTurn
from portico.core.sessions import Sessions
from portico.plugins.context import Context
from portico.testing.transport import Refused, TransportConformance
from portico.transports.base import Transport, TransportFailed
from portico.transports.models import PermissionBody, SessionBody, TurnBody
from portico.transports.parse import check, parse_object
from portico.transports.streams import Streams

pytestmark = pytest.mark.anyio

GONE = (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError)

log = logging.getLogger(__name__)


def raw(listener: TypedAttributeProvider) -> socket.socket:
    found: socket.socket = listener.extra(SocketAttribute.raw_socket)  # noqa: S610 - it is no Django
    return found


def port_of(listener: TypedAttributeProvider) -> int:
    port: int = raw(listener).getsockname()[1]
    return port


class Good:
    """Breaks nothing. A connection is one line that asks, and the answer: a line, or events as lines."""

    name = "good"

    def __init__(self, context: Context) -> None:
        self.callers = context.callers
        self.port = context.settings.port
        self.write_timeout = context.settings.write_timeout
        self.streams = Streams()

    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        listener = await self.listen()
        async with anyio.create_task_group() as connections:
            try:
                async with listener, anyio.create_task_group() as accepting:
                    accepting.start_soon(listener.serve, partial(self.talk, engine), connections)
                    task_status.started(f"good://127.0.0.1:{port_of(listener)}")
            finally:
                await self.stop(engine)

    async def listen(self) -> Listener[SocketStream]:
        try:
            return await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        except OSError as error:
            raise TransportFailed(f"cannot listen on port {self.port}: {error}") from error

    async def stop(self, engine: Sessions) -> None:
        self.streams.stop()

    async def talk(self, engine: Sessions, stream: SocketStream) -> None:
        with self.streams.finishing():
            async with stream:
                try:
                    await self.answer(engine, stream)
                except GONE:
                    pass
                except Exception:
                    log.exception("a fault in the server")

    async def answer(self, engine: Sessions, stream: SocketStream) -> None:
        received = BufferedByteReceiveStream(stream)
        try:
            with self.streams.waiting():
                line = self.parse(await received.receive_until(b"\n", 4 * 1024 * 1024))
            if self.streams.stopped:
                raise Unavailable("the server is stopping", code="draining")
            await self.do(engine, await self.who(engine, line), line, stream)
        except anyio.DelimiterNotFound:
            pass
        except PorticoError as error:
            await self.send(stream, [json.dumps({"refused": error.code}).encode()])

    def parse(self, line: bytes) -> Mapping[str, Any]:
        return parse_object(line)

    async def who(self, engine: Sessions, line: Mapping[str, Any]) -> Principal:
        return await self.callers.principal(line.get("secret"))

    async def do(self, engine: Sessions, principal: Principal, line: Mapping[str, Any], stream: SocketStream) -> None:
        session_id = str(line.get("session_id"))
        match line.get("do"):
            case "create":
                await self.create(engine, principal, session_id)
            case "query":
                await engine.query(principal, session_id, self.turn(line))
            case "interrupt":
                await self.interrupt(engine, principal, session_id)
            case "answer":
                decision = check(PermissionBody, {"behavior": line["behavior"]}).decision()
                await engine.answer(principal, session_id, line["request_id"], decision)
            case "events":
                await self.events(engine, principal, session_id, line["after"], stream)
                return
            case _:
                raise Unauthenticated("do is missing", code="malformed")
        await self.send(stream, [b"{}"])

    async def create(self, engine: Sessions, principal: Principal, session_id: str) -> None:
        await engine.create(principal, check(SessionBody, {"session_id": session_id}).request())

    def turn(self, line: Mapping[str, Any]) -> NewTurn:
        return check(TurnBody, {"query": line["content"], "turn_id": line["turn_id"]}).request()

    async def interrupt(self, engine: Sessions, principal: Principal, session_id: str) -> None:
        await engine.interrupt(principal, session_id)

    async def events(
        self, engine: Sessions, principal: Principal, session_id: str, after: int, stream: SocketStream
    ) -> None:
        await self.tell(await engine.reader(principal, session_id, after=after), stream)

    async def tell(self, reader: Reader, stream: SocketStream) -> None:
        with self.streams.following(reader):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.notice_end, stream, tasks.cancel_scope)
                with suppress(*GONE):
                    await self.tell_all(reader, stream)
                tasks.cancel_scope.cancel()

    async def tell_all(self, reader: Reader, stream: SocketStream) -> None:
        while events := await reader.read():
            await self.send(stream, self.select([event.data for event in events]))

    async def notice_end(self, stream: SocketStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                await stream.receive()
        except GONE:
            scope.cancel()  # there is nobody to send to any more

    def select(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        return lines

    async def send(self, stream: SocketStream, lines: Sequence[bytes]) -> None:
        for line in lines:
            with anyio.fail_after(self.write_timeout):
                await stream.send(line + b"\n")


class Client:
    def __init__(self, connect: Any, secret: str | None) -> None:
        self._connect = connect
        self._secret = secret

    async def create(self, session_id: str) -> None:
        await self._ask(do="create", session_id=session_id)

    async def query(self, session_id: str, content: Any, turn_id: str) -> None:
        await self._ask(do="query", session_id=session_id, content=content, turn_id=turn_id)

    async def interrupt(self, session_id: str) -> None:
        await self._ask(do="interrupt", session_id=session_id)

    async def answer(self, session_id: str, request_id: str, behavior: str) -> None:
        await self._ask(do="answer", session_id=session_id, request_id=request_id, behavior=behavior)

    async def events(self, session_id: str, after: int) -> AsyncIterator[Mapping[str, Any]]:
        async with self._asking(do="events", session_id=session_id, after=after) as stream:
            lines = BufferedByteReceiveStream(stream)
            while (line := await self._line(lines)) is not None:
                yield line

    async def _ask(self, **line: Any) -> None:
        async with self._asking(**line) as stream:
            if await self._line(BufferedByteReceiveStream(stream)) is None:
                raise Refused("nothing")

    async def _line(self, lines: BufferedByteReceiveStream) -> Mapping[str, Any] | None:
        try:
            line: Mapping[str, Any] = json.loads(await lines.receive_until(b"\n", 100_000_000))
        except anyio.IncompleteRead:
            return None
        if "refused" in line:
            raise Refused(line["refused"])
        return line

    @asynccontextmanager
    async def _asking(self, **line: Any) -> AsyncIterator[ByteStream]:
        async with await self._connect() as stream:
            await stream.send(json.dumps({**line, "secret": self._secret}).encode() + b"\n")
            yield stream


class Suite(TransportConformance):
    def variant(self, context: Context) -> Transport:
        return Good(context)

    def create(self, context: Context) -> Transport:
        return self.variant(context)

    def connect(self, address: str, secret: str | None) -> AbstractAsyncContextManager[Client]:
        @asynccontextmanager
        async def connected() -> AsyncIterator[Client]:
            yield Client(partial(self.dial, address), secret)

        return connected()


@pytest.mark.long
class TestGood(Suite):
    """The transport from which the broken ones are derived passes."""


class Nameless(Good):
    name = " "


class SpeaksTooEarly(Good):
    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        async with await self.listen() as listener:
            self.port = port_of(listener)
        task_status.started(f"good://127.0.0.1:{self.port}")
        await anyio.sleep(0.1)
        await super().serve(engine)


class TellsOnlyHalf(Good):
    def select(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        return [line for line in lines if b'"seq":3,' not in line]


class TellsTheLastFirst(Good):
    def select(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        return lines[::-1]


class TellsAtTheEnd(Good):
    async def tell_all(self, reader: Reader, stream: SocketStream) -> None:
        lines: list[bytes] = []
        while events := await reader.read():
            lines += [event.data for event in events]
            if any(event.type == "complete" for event in events):
                await self.send(stream, lines)
                lines = []


class SharesOneReader(Good):
    shared: Reader | None = None

    async def tell(self, reader: Reader, stream: SocketStream) -> None:
        self.shared = self.shared or reader
        await super().tell(self.shared, stream)


class OpensForNobody(Good):
    async def create(self, engine: Sessions, principal: Principal, session_id: str) -> None:
        await super().create(engine, Principal("nobody"), session_id)


class EndsTheEngine(Good):
    async def stop(self, engine: Sessions) -> None:
        await super().stop(engine)
        cast(Any, engine).draining = True


class CutsWhatIsLong(Good):
    def select(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        return [line for line in lines if len(line) < 512 * 1024]


class MendsText(Good):
    def select(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        return [line.replace(b"\\ud800", b"?") for line in lines]


class StripsQueries(Good):
    def turn(self, line: Mapping[str, Any]) -> NewTurn:
        content = line["content"]
        return super().turn({**line, "content": content.strip() if isinstance(content, str) else content})


class GoesOneTooFar(Good):
    async def events(
        self, engine: Sessions, principal: Principal, session_id: str, after: int, stream: SocketStream
    ) -> None:
        last = (await engine.session(principal, session_id))["last_seq"]
        await super().events(engine, principal, session_id, min(after + (after > 0), last), stream)


class RepeatsWhileATurnRuns(Good):
    async def events(
        self, engine: Sessions, principal: Principal, session_id: str, after: int, stream: SocketStream
    ) -> None:
        running = (await engine.session(principal, session_id))["state"] == "running"
        await super().events(engine, principal, session_id, max(after - running, 0), stream)


class ClosesSessionsAtItsEnd(Good):
    async def stop(self, engine: Sessions) -> None:
        await super().stop(engine)
        with anyio.CancelScope(shield=True):
            for session in (await engine.sessions(Principal("", admin=True)))[0]:
                await engine.close(Principal("", admin=True), session["session_id"])


class InterruptsWhenAClientLeaves(Good):
    async def events(
        self, engine: Sessions, principal: Principal, session_id: str, after: int, stream: SocketStream
    ) -> None:
        await super().events(engine, principal, session_id, after, stream)
        await engine.interrupt(principal, session_id)


class SendsToOneAtATime(Good):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sending = anyio.Lock()

    async def send(self, stream: SocketStream, lines: Sequence[bytes]) -> None:
        async with self.sending:
            await super().send(stream, lines)


class WaitsForEver(Good):
    async def send(self, stream: SocketStream, lines: Sequence[bytes]) -> None:
        for line in lines:
            await stream.send(line + b"\n")


class ReadsAllAtOnce(Good):
    async def tell_all(self, reader: Reader, stream: SocketStream) -> None:
        lines: list[bytes] = []
        while events := await reader.read():
            lines += [event.data for event in events]
            if reader.after >= reader._feed.last_seq:
                await self.send(stream, lines)
                lines = []


class KeepsConnections(Good):
    async def talk(self, engine: Sessions, stream: SocketStream) -> None:
        kept = raw(stream).dup()
        await super().talk(engine, stream)
        self.__dict__.setdefault("kept", []).append(kept)

    async def stop(self, engine: Sessions) -> None:
        await super().stop(engine)
        for kept in self.__dict__.pop("kept", []):
            kept.close()


class KeepsTasks(Good):
    async def talk(self, engine: Sessions, stream: SocketStream) -> None:
        await super().talk(engine, stream)
        with self.streams.waiting():
            await anyio.sleep_forever()


class StumblesOverGarbage(Good):
    def parse(self, line: bytes) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(line)
        return found


class DiesOfGarbage(Good):
    async def talk(self, engine: Sessions, stream: SocketStream) -> None:
        async with stream:
            await self.answer(engine, stream)

    def parse(self, line: bytes) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(line)
        return found


class TakesGarbageForQueries(Good):
    async def answer(self, engine: Sessions, stream: SocketStream) -> None:
        try:
            await super().answer(engine, stream)
        except anyio.IncompleteRead:
            with anyio.CancelScope(shield=True):
                await engine.query(Principal("alice"), "s", NewTurn("garbage"))


class ForgetsTurnIds(Good):
    def turn(self, line: Mapping[str, Any]) -> NewTurn:
        return NewTurn(super().turn(line).content)


class InterruptsNothing(Good):
    async def interrupt(self, engine: Sessions, principal: Principal, session_id: str) -> None:
        await engine.session(principal, session_id)


class AllowsEverything(Good):
    async def do(self, engine: Sessions, principal: Principal, line: Mapping[str, Any], stream: SocketStream) -> None:
        await super().do(engine, principal, {**line, "behavior": "allow"}, stream)


class SaysNothingOfWhatIsNotThere(Good):
    async def do(self, engine: Sessions, principal: Principal, line: Mapping[str, Any], stream: SocketStream) -> None:
        try:
            await super().do(engine, principal, line, stream)
        except NotFound:
            await self.send(stream, [b"{}"])


class LetsStrangersIn(Good):
    async def who(self, engine: Sessions, line: Mapping[str, Any]) -> Principal:
        return await self.callers.find(line.get("secret")) or Principal("guest")


class TellsStrangersWhatIsThere(Good):
    async def who(self, engine: Sessions, line: Mapping[str, Any]) -> Principal:
        await engine.session(Principal("", admin=True), str(line.get("session_id")))
        return await super().who(engine, line)


class LooksAgain(Good):
    async def events(
        self, engine: Sessions, principal: Principal, session_id: str, after: int, stream: SocketStream
    ) -> None:
        await engine.session(principal, session_id)
        await super().events(engine, principal, session_id, after, stream)


class MakesEverybodyAdmin(Good):
    async def who(self, engine: Sessions, line: Mapping[str, Any]) -> Principal:
        return Principal((await super().who(engine, line)).name, admin=True)


class MakesNobodyAdmin(Good):
    async def who(self, engine: Sessions, line: Mapping[str, Any]) -> Principal:
        return Principal((await super().who(engine, line)).name)


class TakesAnything(Good):
    def turn(self, line: Mapping[str, Any]) -> NewTurn:
        return NewTurn(line["content"], line["turn_id"])


class HasOneCode(Good):
    async def do(self, engine: Sessions, principal: Principal, line: Mapping[str, Any], stream: SocketStream) -> None:
        try:
            await super().do(engine, principal, line, stream)
        except Exhausted as error:
            raise Exhausted(error.detail, code="internal_error", retry_after=1) from error


class NeverEnds(Good):
    async def tell(self, reader: Reader, stream: SocketStream) -> None:
        await super().tell(reader, stream)
        await anyio.sleep_forever()


class ServesNobodyWhileItDrains(Good):
    async def do(self, engine: Sessions, principal: Principal, line: Mapping[str, Any], stream: SocketStream) -> None:
        if engine.draining:
            raise Unavailable("the server is stopping", code="draining")
        await super().do(engine, principal, line, stream)


class RefusesNothingWhileItDrains(Good):
    async def do(self, engine: Sessions, principal: Principal, line: Mapping[str, Any], stream: SocketStream) -> None:
        try:
            await super().do(engine, principal, line, stream)
        except Unavailable:
            await self.send(stream, [b"{}"])


class WaitsForItsClients(Good):
    async def talk(self, engine: Sessions, stream: SocketStream) -> None:
        with anyio.move_on_after(3, shield=True):
            await super().talk(engine, stream)

    async def stop(self, engine: Sessions) -> None: ...


class StaysOpen(Good):
    async def listen(self) -> Listener[SocketStream]:
        listener = await super().listen()
        LEFT_OPEN.append(raw(listener).dup())
        return listener


class CutsAtOnce(Good):
    async def talk(self, engine: Sessions, stream: SocketStream) -> None:
        async with stream:
            with suppress(*GONE):
                await self.answer(engine, stream)

    async def send(self, stream: SocketStream, lines: Sequence[bytes]) -> None:
        for line in lines:
            await anyio.sleep(0.02)
            await stream.send(line + b"\n")


class SharesItsAddress(Good):
    async def listen(self) -> Listener[SocketStream]:
        return await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port, reuse_port=True)


class GivesNoReason(Good):
    async def listen(self) -> Listener[SocketStream]:
        return await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)


class LeaksWhenItsStartIsCancelled(Good):
    async def listen(self) -> Listener[SocketStream]:
        listener = await super().listen()
        LEFT_OPEN.append(listener)
        await anyio.lowlevel.checkpoint()
        LEFT_OPEN.remove(listener)
        return listener


LEFT_OPEN: list[Any] = []

BROKEN: Mapping[type[Good], str] = {
    Nameless: "test_it_has_a_name",
    SpeaksTooEarly: "test_it_says_where_it_is_once_it_serves",
    TellsOnlyHalf: "test_a_turn_is_told_whole_and_in_order",
    TellsTheLastFirst: "test_a_turn_is_told_whole_and_in_order",
    TellsAtTheEnd: "test_events_come_as_they_happen",
    SharesOneReader: "test_all_who_watch_see_the_same",
    OpensForNobody: "test_a_session_can_be_opened",
    EndsTheEngine: "test_two_transports_serve_one_engine",
    CutsWhatIsLong: "test_events_arrive_unchanged",
    MendsText: "test_events_arrive_unchanged",
    StripsQueries: "test_a_query_arrives_unchanged",
    GoesOneTooFar: "test_who_comes_back_goes_on_exactly_there",
    RepeatsWhileATurnRuns: "test_cut_in_mid_turn_nothing_is_missing",
    ClosesSessionsAtItsEnd: "test_it_goes_on_after_a_restart",
    InterruptsWhenAClientLeaves: "test_a_turn_goes_on_when_its_client_leaves",
    SendsToOneAtATime: "test_a_client_that_reads_nothing_delays_nobody",
    WaitsForEver: "test_a_client_that_reads_nothing_is_cut_off",
    ReadsAllAtOnce: "test_a_client_that_reads_nothing_costs_little_memory",
    KeepsConnections: "test_nothing_is_left_of_clients_that_have_gone",
    KeepsTasks: "test_nothing_is_left_of_clients_that_have_gone",
    StumblesOverGarbage: "test_bad_input_harms_nobody",
    DiesOfGarbage: "test_bad_input_harms_nobody",
    TakesGarbageForQueries: "test_bad_input_harms_nobody",
    ForgetsTurnIds: "test_the_same_turn_id_runs_once",
    InterruptsNothing: "test_a_running_turn_can_be_interrupted",
    AllowsEverything: "test_a_permission_can_be_answered",
    SaysNothingOfWhatIsNotThere: "test_an_unknown_session_is_refused",
    LetsStrangersIn: "test_strangers_are_refused",
    TellsStrangersWhatIsThere: "test_strangers_are_refused",
    MakesEverybodyAdmin: "test_what_is_somebody_elses_is_unknown",
    LooksAgain: "test_a_client_stays_with_the_session_that_it_began_with",
    MakesNobodyAdmin: "test_an_admin_may_do_everything",
    TakesAnything: "test_wrong_values_are_refused",
    HasOneCode: "test_a_refusal_has_the_code_of_its_reason",
    NeverEnds: "test_the_events_end_with_the_session",
    ServesNobodyWhileItDrains: "test_while_it_drains_reads_are_served",
    RefusesNothingWhileItDrains: "test_while_it_drains_reads_are_served",
    WaitsForItsClients: "test_a_stop_takes_seconds_whoever_is_there",
    StaysOpen: "test_a_stop_takes_seconds_whoever_is_there",
    CutsAtOnce: "test_what_is_on_its_way_at_a_stop_arrives_whole",
    SharesItsAddress: "test_an_address_that_is_taken",
    GivesNoReason: "test_an_address_that_is_taken",
    LeaksWhenItsStartIsCancelled: "test_cancelled_while_it_starts_nothing_is_left",
}


@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant.__name__)
async def test_a_broken_transport_fails_the_rule_that_it_breaks(
    variant: type[Good], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    suite = Suite()
    suite.variant = variant  # type: ignore[method-assign]
    suite.seconds = 1.0
    test = getattr(suite, BROKEN[variant])
    given = {"tmp_path": tmp_path, "caplog": caplog}
    with pytest.raises((Exception, pytest.fail.Exception)) as failure:
        await test(**{name: given[name] for name in signature(test).parameters})
    while LEFT_OPEN:
        left = LEFT_OPEN.pop()
        await left.aclose() if isinstance(left, Listener) else left.close()
    assert not isinstance(failure.value, pytest.skip.Exception | TypeError | AttributeError)
    assert str(failure.value)  # in words


@pytest.mark.parametrize("rule", sorted(name for name in dir(TransportConformance) if name.startswith("test_")))
def test_no_rule_is_without_its_proof(rule: str) -> None:
    assert rule in BROKEN.values()
    text = getattr(TransportConformance, rule).__doc__ or ""
    assert text.strip().endswith("."), "its docstring states the rule"
