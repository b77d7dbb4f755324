"""The life of sessions, as any sequence of calls may shape it, held against a simple model.

The engine and the store are the real ones; agents echo, since it is not they who are looked at. Sessions go dormant
almost at once, there is one process for all, and the server stops without a word or in good order between any two
calls.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from portico.core.engine import Engine
from portico.core.errors import Conflict, Exhausted, PorticoError, StoreFailed
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.engine import generous_policy
from tests.support.limits import HANG_SECONDS
from tests.support.moody import Moody

T = TypeVar("T")
ADA = Principal("ada")
NAMES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from(["quick", json.dumps({"deltas": 3, "gap": 0.01}), json.dumps({"deltas": None, "gap": 0.01})])


class MoodyStore(Moody, SqliteStore):
    """The real store, in a mood."""


class Life(RuleBasedStateMachine):
    """``turns``: session → ids of accepted turns; ``seen``: session → events that a client has read."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="portico-test-"))
        self.turns: dict[str, list[str]] = {}
        self.closed: set[str] = set()
        self.seen: dict[str, list[bytes]] = {}
        self.count = 0
        self.portals = start_blocking_portal("asyncio")
        self.portal: BlockingPortal = self.portals.__enter__()
        self.engine: Engine
        self.running: Future[None]
        self.scope: anyio.CancelScope

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        async def bounded() -> T:
            with anyio.fail_after(HANG_SECONDS):
                return await function(*arguments)

        return self.portal.call(bounded)

    @initialize()
    def start(self) -> None:
        self.store = MoodyStore(self.folder / "portico.db")
        self.engine = Engine(
            store=self.store,
            drivers={"echo": EchoDriver()},
            default_driver="echo",
            default_model=None,
            policy=generous_policy(
                self.folder,
                max_sessions=3,
                max_processes=1,
                max_queued_turns=2,
                turn_timeout=0.3,
                permission_timeout=1,
                session_timeout=0.02,
                process_wait=10,
            ),
        )

        async def run(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    await tasks.start(self.engine.run)
                    task_status.started(scope)

        self.running, self.scope = self.portal.start_task(run)

    def stop(self) -> None:
        self.portal.call(self.scope.cancel)
        self.running.result(20)

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        try:
            self.call(self.engine.create, ADA, NewSession(session_id=name))
            assert name not in self.turns
            self.turns[name], self.seen[name] = [], []
        except Conflict as conflict:
            assert conflict.code == "session_exists" and name in self.turns
        except Exhausted as full:
            assert full.code == "too_many_sessions"
        except StoreFailed:
            assert self.store.failing

    @rule(delay=st.sampled_from([0.0, 0.005, 0.03]), failing=st.booleans())
    def change_mood(self, delay: float, failing: bool) -> None:
        self.store.delay, self.store.failing = delay, failing

    @rule(name=NAMES, kind=KINDS, if_busy=st.sampled_from(["queue", "reject", "interrupt"]))
    def ask(self, name: str, kind: str, if_busy: Any) -> None:
        self.count += 1
        turn_id = f"t{self.count}"
        try:
            self.call(self.engine.query, ADA, name, NewTurn(kind, turn_id, if_busy))
            assert name in self.turns
            self.turns[name].append(turn_id)
        except PorticoError as error:
            expected = {"busy", "queue_full", "too_many_sessions"}
            expected |= {"session_not_found"} if name not in self.turns else set()
            expected |= {"session_closed"} if name in self.closed else set()
            expected |= {"store_full"} if self.store.failing else set()
            assert error.code in expected

    @rule(name=NAMES, data=st.data())
    def ask_again(self, name: str, data: st.DataObject) -> None:
        if self.turns.get(name):
            turn_id = data.draw(st.sampled_from(self.turns[name]))
            try:
                assert not self.call(self.engine.query, ADA, name, NewTurn("again", turn_id)).created
            except Exhausted as full:
                assert full.code == "too_many_sessions"

    @rule(name=NAMES)
    def interrupt(self, name: str) -> None:
        try:
            self.call(self.engine.interrupt, ADA, name)
        except PorticoError as error:
            assert error.code in ("not_running", "session_not_found")

    @rule(name=NAMES, data=st.data())
    def withdraw(self, name: str, data: st.DataObject) -> None:
        if self.turns.get(name):
            try:
                self.call(self.engine.withdraw, ADA, name, data.draw(st.sampled_from(self.turns[name])))
            except Conflict as conflict:
                assert conflict.code == "not_queued"
            except StoreFailed:
                assert self.store.failing

    @rule(name=NAMES, title=st.text(max_size=5))
    def rename(self, name: str, title: str) -> None:
        try:
            assert self.call(self.engine.change, ADA, name, SessionChanges({"title": title}))["title"] == title
        except PorticoError as error:
            assert error.code in ("session_not_found", "session_closed", "store_full")

    @rule(name=NAMES)
    def read(self, name: str) -> None:
        if name in self.turns:
            events, _ = self.call(lambda: self.engine.history(ADA, name, after=len(self.seen[name]), limit=1000))
            self.seen[name] += [event.data for event in events]

    @rule(name=NAMES)
    def close(self, name: str) -> None:
        if name in self.turns:
            self.closed.add(name)
            try:
                self.call(self.engine.close, ADA, name)
            except StoreFailed:
                assert self.store.failing  # it will be closed once the store works, or its server is gone

    @rule(name=NAMES)
    def purge(self, name: str) -> None:
        if name in self.turns:
            try:
                self.call(lambda: self.engine.close(ADA, name, purge=True))
            except StoreFailed:
                assert self.store.failing
                self.closed.add(name)
            else:
                self.closed.discard(name)
                del self.turns[name], self.seen[name]

    @rule(seconds=st.sampled_from([0.0, 0.03, 0.1]))
    def wait(self, seconds: float) -> None:
        self.call(anyio.sleep, seconds)

    @rule(in_good_order=st.booleans())
    def restart(self, in_good_order: bool) -> None:
        if in_good_order and not self.store.failing:
            self.call(self.engine.drain, 0.2)
        self.store.failing = False  # a server does not even start on such a store
        self.stop()
        self.start()

    @invariant()
    def what_was_seen_stays(self) -> None:
        for name, seen in self.seen.items():
            if seen:
                events, _ = self.call(
                    lambda name=name, seen=seen: self.engine.history(ADA, name, after=0, limit=len(seen))
                )
                assert [event.data for event in events] == seen

    def teardown(self) -> None:
        self.store.delay, self.store.failing = 0.0, False
        try:
            self.call(anyio.sleep, 1.2)  # what could not be written is tried again every second
            self.call(self.engine.drain, 3.0)
            for name, accepted in self.turns.items():
                events, more = self.call(lambda name=name: self.engine.history(ADA, name, after=0, limit=10**6))
                assert not more
                history = [json.loads(event.data) for event in events]
                assert [event["seq"] for event in history] == list(range(1, len(history) + 1))
                for turn_id in accepted:
                    mine = [event["type"] for event in history if event.get("turn_id") == turn_id]
                    assert mine[0] == "query" and mine[-1] == "complete"
                    assert mine.count("query") == mine.count("complete") == 1
                assert {event["turn_id"] for event in history if "turn_id" in event} == set(accepted)
        finally:
            self.stop()
            self.portals.__exit__(None, None, None)
            shutil.rmtree(self.folder)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.long
@pytest.mark.timeout(600)  # a minute of it is waiting
class TestLifeAtLength(Life.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(TestLife.settings, max_examples=60, stateful_step_count=50)
