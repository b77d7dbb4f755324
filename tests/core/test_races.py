"""Calls that must not fall between two things that happen at once. The engine is real; the store takes its time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import AgentSpec, Decision, Turn
from portico.core.engine import Engine
from portico.core.errors import Conflict, InvalidRequest, PorticoError, StoreFailed
from portico.core.events import Delta, Event
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges
from portico.core.store import SessionRecord
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.echo.echo_agent import EchoAgent
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.engine import scripted_engine
from portico.testing.scripted import Ask, Fail, Gate, ScriptedAgent, ScriptedDriver, TakeUp, turn
from tests.support.limits import HANG_SECONDS
from tests.support.moody import Moody

pytestmark = pytest.mark.anyio

ADA = Principal("ada")
ENDLESS = json.dumps({"deltas": None, "gap": 0.01})


class MoodyStore(Moody, MemoryStore):
    """The real store, in a mood."""


@asynccontextmanager
async def engine_on(store: MoodyStore, folder: Path, **limits: Any) -> AsyncIterator[Engine]:
    with anyio.fail_after(HANG_SECONDS):
        async with scripted_engine(folder, store=store, **limits) as engine:
            yield engine


async def ends(engine: Engine, session_id: str) -> dict[str, str]:
    """Return the end of each turn; each ends once."""
    events, _ = await engine.history(ADA, session_id, after=0, limit=100_000)
    completes = [json.loads(event.data) for event in events if event.type == "complete"]
    found = {event["turn_id"]: event["stop_reason"] for event in completes}
    assert len(found) == len(completes)
    return found


async def quiet(engine: Engine, session_id: str, turns: int) -> dict[str, str]:
    with anyio.fail_after(HANG_SECONDS):
        while len(found := await ends(engine, session_id)) < turns:
            await anyio.sleep(0.01)
    return found


async def test_a_query_that_meets_the_idle_timeout_is_run(tmp_path: Path) -> None:
    store = MoodyStore()
    store.delay = 0.004
    async with engine_on(store, tmp_path, session_timeout=0.01, max_queued_turns=60) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        for n in range(60):
            await engine.query(ADA, "s", NewTurn("hello", f"t{n}"))
            await anyio.sleep(n % 20 * 0.001 + 0.01)
        assert set((await quiet(engine, "s", 60)).values()) == {"end_turn"}


async def test_a_query_that_meets_the_close_is_refused_or_ended(tmp_path: Path) -> None:
    store = MoodyStore()
    async with engine_on(store, tmp_path) as engine:
        for n in range(20):
            name = f"s{n}"
            store.delay = 0.0
            await engine.create(ADA, NewSession(session_id=name))
            store.delay = 0.004
            accepted: list[str] = []

            async def ask(name: str = name, accepted: list[str] = accepted) -> None:
                try:
                    accepted.append((await engine.query(ADA, name, NewTurn("hello"))).turn_id)
                except Conflict as conflict:
                    assert conflict.code == "session_closed"

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await anyio.sleep(n * 0.0005)
                tasks.start_soon(engine.close, ADA, name)
            assert set(await ends(engine, name)) == set(accepted)
            assert (await engine.session(ADA, name))["state"] == "closed"


async def test_withdrawing_the_last_that_waits_leaves_the_session_idle(
    tmp_path: Path,
) -> None:
    store = MoodyStore()
    async with engine_on(store, tmp_path) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        store.delay = 0.003
        for n in range(15):
            await engine.query(ADA, "s", NewTurn("hello", f"a{n}"))
            await engine.query(ADA, "s", NewTurn("hello", f"b{n}"))
            await anyio.sleep(n * 0.0008)
            try:
                await engine.withdraw(ADA, "s", f"b{n}")
            except Conflict as conflict:
                assert conflict.code == "not_queued"
            await quiet(engine, "s", 2 * (n + 1))
            with anyio.fail_after(HANG_SECONDS):
                while (await engine.session(ADA, "s"))["state"] != "idle":
                    await anyio.sleep(0.005)


@pytest.mark.parametrize("seconds", [0.0, 0.006])
async def test_turns_that_wait_when_the_server_stops_are_ended_once(seconds: float, tmp_path: Path) -> None:
    for n in range(15):
        store = MoodyStore()
        folder = tmp_path / str(n)
        folder.mkdir()
        async with engine_on(store, folder) as engine:
            await engine.create(ADA, NewSession(session_id="s"))
            store.delay = 0.004
            for turn_id in "abcd":
                await engine.query(ADA, "s", NewTurn("hello", turn_id))
            async with anyio.create_task_group() as tasks:
                await anyio.sleep(n * 0.0007)
                tasks.start_soon(engine.drain, seconds)
                await anyio.sleep(n * 0.0003)
                tasks.start_soon(_withdraw, engine, "d")
            assert set(await ends(engine, "s")) == set("abcd")
            assert (await engine.session(ADA, "s"))["state"] != "failed"


class NoStops(MemoryStore):
    """It fails on turns that were refused by a stop."""

    tries = 0

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        if any("server_stopped" in str(event.data) for event in events):
            self.tries += 1
            raise StoreFailed("the disk is full", code="store_full")
        await super().append(session_id, expected_seq, events, record)


async def test_a_stop_on_a_store_that_fails_does_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portico.core.engine.STOP_SECONDS", 1.5)
    store = NoStops()
    async with scripted_engine(tmp_path, store=store) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn(ENDLESS))
        await engine.query(ADA, "s", NewTurn("hello"))
        await engine.drain(0.0)
    assert 2 <= store.tries < 5


async def _withdraw(engine: Engine, turn_id: str) -> None:
    try:
        await engine.withdraw(ADA, "s", turn_id)
    except Conflict as conflict:
        assert conflict.code == "not_queued"


async def test_on_a_store_that_fails_nothing_is_lost_and_all_goes_on_once_it_works(tmp_path: Path) -> None:
    store = MoodyStore()
    async with engine_on(store, tmp_path, max_sessions=2, session_timeout=0.2) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.create(ADA, NewSession(session_id="idle"))
        await engine.query(ADA, "s", NewTurn(ENDLESS, "running"))
        await engine.query(ADA, "s", NewTurn("hello", "waiting"))
        await anyio.sleep(0.05)
        store.failing = True
        with pytest.raises(StoreFailed):
            await engine.query(ADA, "s", NewTurn("hello", "refused"))
        with pytest.raises(StoreFailed):
            await engine.withdraw(ADA, "s", "waiting")
        with pytest.raises(PorticoError):
            await engine.close(ADA, "idle")
        await anyio.sleep(0.5)  # longer than the idle timeout
        assert engine.readiness()
        store.failing = False
        assert await quiet(engine, "s", 2) == {"running": "error", "waiting": "end_turn"}
        await engine.close(ADA, "idle")
        assert (await engine.session(ADA, "idle"))["state"] == "closed"
        assert not engine.readiness()
        await engine.query(ADA, "s", NewTurn("hello", "after"))
        await quiet(engine, "s", 3)
        await engine.create(ADA, NewSession())


async def test_who_needs_its_process_after_all_lets_somebody_else_be_asked(tmp_path: Path) -> None:
    async with engine_on(MoodyStore(), tmp_path, max_processes=2, process_wait=3) as engine:
        for n in range(24):
            names = [f"{name}{n}" for name in "abc"]
            for name in names:
                await engine.create(ADA, NewSession(session_id=name))
            a, b, c = names
            for name in (a, b):
                await engine.query(ADA, name, NewTurn("hello", "first"))
                await quiet(engine, name, 1)
            await engine.query(ADA, c, NewTurn("hello", "waits"))
            for _ in range(n % 6):
                await anyio.lowlevel.checkpoint()
            await engine.query(ADA, a, NewTurn(ENDLESS, "keeps"))
            assert await quiet(engine, c, 1) == {"waits": "end_turn"}  # b, which is idle, has given its process
            for name in names:
                await engine.close(ADA, name, purge=True)


async def test_a_turn_that_was_taken_in_can_be_interrupted_at_once(tmp_path: Path) -> None:
    async with engine_on(MoodyStore(), tmp_path) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        for n in range(6):
            turn = await engine.query(ADA, "s", NewTurn(ENDLESS, f"t{n}"))
            assert turn.state == "running"
            for _ in range(n):
                await anyio.lowlevel.checkpoint()
            await engine.interrupt(ADA, "s")
            assert (await quiet(engine, "s", n + 1))[f"t{n}"] == "interrupted"
            while (await engine.session(ADA, "s"))["state"] != "idle":
                await anyio.lowlevel.checkpoint()


async def test_a_query_that_interrupts_comes_behind_the_turn_that_is_just_beginning(tmp_path: Path) -> None:
    async with engine_on(MoodyStore(), tmp_path) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        for n in range(6):
            await engine.query(ADA, "s", NewTurn(ENDLESS, f"first{n}"))
            await engine.query(ADA, "s", NewTurn("hello", f"waits{n}"))
            for _ in range(n):
                await anyio.lowlevel.checkpoint()
            await engine.query(ADA, "s", NewTurn("hello", f"next{n}", if_busy="interrupt"))
            found = await quiet(engine, "s", 3 * (n + 1))
            assert found[f"first{n}"] == "interrupted"
            order = list(found)
            assert order.index(f"first{n}") < order.index(f"next{n}") < order.index(f"waits{n}")


async def test_a_message_that_is_taken_up_with_the_last_words_is_not_run_again(tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver([turn(gate, TakeUp(), Delta(type="delta", content="x")), turn()])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        await gate.reached.wait()
        await engine.query(ADA, "s", NewTurn("more", "two", if_busy="steer"))
        gate.open()
        assert await quiet(engine, "s", 2) == {"two": "steered", "one": "end_turn"}
        assert [asked.content for asked in driver.agents[0].turns] == ["hello"]


async def test_content_that_an_agent_does_not_bear_costs_the_turn_and_not_the_agent(tmp_path: Path) -> None:
    driver = ScriptedDriver([[Fail(InvalidRequest("no pictures", code="no_pictures"))], turn()])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        await engine.query(ADA, "s", NewTurn("hello", "two"))
        assert await quiet(engine, "s", 2) == {"one": "error", "two": "end_turn"}
        assert len(driver.agents) == 1


async def test_steering_a_turn_that_is_just_ending_loses_nothing(tmp_path: Path) -> None:
    store = MoodyStore()
    async with engine_on(store, tmp_path, max_queued_turns=100) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        store.delay = 0.004
        accepted = 0
        for n in range(25):
            await engine.query(ADA, "s", NewTurn("one two", f"t{n}"))
            for m in range(n % 5 + 1):
                await anyio.sleep(n % 7 * 0.001)
                await engine.query(ADA, "s", NewTurn("more", f"t{n}-{m}", if_busy="steer"))
                accepted += 1
            accepted += 1
        assert set((await quiet(engine, "s", accepted)).values()) <= {"end_turn", "steered"}


class SlowDriver(EchoDriver):
    """Its agents take their time to start."""

    async def start(self, spec: AgentSpec) -> EchoAgent:
        await anyio.sleep(0.2)
        return await super().start(spec)


async def test_steers_before_the_agent_is_there_keep_their_order(tmp_path: Path) -> None:
    async with scripted_engine(tmp_path, driver=SlowDriver()) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "first"))
        await engine.query(ADA, "s", NewTurn("hello", "waits"))
        for name in ("one", "two", "three"):
            await engine.query(ADA, "s", NewTurn("hello", name, if_busy="steer"))
            await anyio.sleep(0.02)
        assert list(await quiet(engine, "s", 5)) == ["first", "one", "two", "three", "waits"]


async def test_a_steered_turn_whose_end_is_not_stored_is_not_lost(tmp_path: Path) -> None:
    store, gate = MoodyStore(), Gate()
    delta = Delta(type="delta", content="x")
    driver = ScriptedDriver([turn(delta, TakeUp(), gate), turn(delta), turn(delta)])
    async with scripted_engine(tmp_path, driver=driver, store=store) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        while not driver.agents or not driver.agents[0].turns:
            await anyio.sleep(0.01)
        await engine.query(ADA, "s", NewTurn("more", "two", if_busy="steer"))
        store.failing = True
        await anyio.sleep(0.2)
        store.failing = False
        gate.open()
        assert set(await quiet(engine, "s", 2)) == {"one", "two"}


async def test_a_permission_that_expires_while_the_store_fails_is_denied_later(tmp_path: Path) -> None:
    store = MoodyStore()
    driver = ScriptedDriver([turn(Ask("Bash", request_id="r"))])
    async with scripted_engine(tmp_path, driver=driver, store=store, permission_timeout=0.3) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        while not await engine.pending(ADA, "s"):
            await anyio.sleep(0.01)
        store.failing = True
        await anyio.sleep(0.5)
        store.failing = False
        assert await quiet(engine, "s", 1) == {"one": "end_turn"}
        assert [decision.behavior for _, decision in driver.agents[0].decisions] == ["deny"]


async def test_what_a_reader_got_is_nobodys_to_change(tmp_path: Path) -> None:
    async with engine_on(MoodyStore(), tmp_path) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "t"))
        await quiet(engine, "s", 1)
        events = await (await engine.reader(ADA, "s")).read()
        assert not isinstance(events, list)


async def test_a_stop_does_not_wait_for_a_store_that_fails_since_an_idle_agent_has_died(tmp_path: Path) -> None:
    store = MoodyStore()
    driver = ScriptedDriver([turn()])
    async with anyio.create_task_group() as tasks:
        async with scripted_engine(tmp_path, driver=driver, store=store) as engine:
            await engine.create(ADA, NewSession(session_id="s"))
            await engine.query(ADA, "s", NewTurn("hello"))
            await quiet(engine, "s", 1)
            store.failing = True
            driver.agents[0].die()
            with anyio.fail_after(HANG_SECONDS):
                while not engine.readiness():
                    await anyio.sleep(0.01)

            async def fix() -> None:
                await anyio.sleep(2)
                store.failing = False

            tasks.start_soon(fix)
        assert store.failing
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def steered(folder: Path, driver: ScriptedDriver, gate: Gate) -> AsyncIterator[tuple[Engine, MoodyStore]]:
    """A turn that stands before its ``gate``, and has been handed another; the store is slow from then on."""
    store = MoodyStore()
    async with scripted_engine(folder, driver=driver, store=store) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        await gate.reached.wait()
        await engine.query(ADA, "s", NewTurn("more", "two", if_busy="steer"))
        store.delay = 0.2
        yield engine, store


@pytest.mark.parametrize("if_busy", ["interrupt", "steer"])
async def test_what_a_turn_has_not_taken_up_stays_the_next(if_busy: Any, tmp_path: Path) -> None:
    gate = Gate()
    driver = ScriptedDriver([turn(gate), turn(), turn()])
    async with steered(tmp_path, driver, gate) as (engine, store):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.query, ADA, "s", NewTurn("late", "three", if_busy=if_busy))
            await anyio.sleep(0.1)  # it is being stored
            gate.open()
        store.delay = 0.0
        assert list(await quiet(engine, "s", 3)) == ["one", "two", "three"]


async def test_what_a_turn_has_not_taken_up_stays_the_next_in_its_whole_length(tmp_path: Path) -> None:
    first, second = Gate(), Gate()
    driver = ScriptedDriver([turn(first), turn(second), turn(), turn()])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        await first.reached.wait()
        for name in ("two", "three"):
            await engine.query(ADA, "s", NewTurn("more", name, if_busy="steer"))
        first.open()
        await second.reached.wait()
        await engine.query(ADA, "s", NewTurn("late", "four", if_busy="interrupt"))
        assert list(await quiet(engine, "s", 4)) == ["one", "two", "three", "four"]


async def test_a_message_that_is_handed_over_later_comes_behind_those_before(tmp_path: Path) -> None:
    first, second = Gate(), Gate()
    driver = ScriptedDriver([turn(first), turn(second), turn(), turn()])
    async with scripted_engine(tmp_path, driver=driver) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        for gate, names in ((first, ("two", "three")), (second, ("four",))):
            await gate.reached.wait()
            for name in names:
                await engine.query(ADA, "s", NewTurn("more", name, if_busy="steer"))
            gate.open()
        assert list(await quiet(engine, "s", 4)) == ["one", "two", "three", "four"]


async def test_an_answer_that_is_not_stored_leaves_no_request_behind_once_the_turn_is_over(tmp_path: Path) -> None:
    store = MoodyStore()
    driver = ScriptedDriver([turn(Ask("Bash", request_id="r"))])
    async with scripted_engine(tmp_path, driver=driver, store=store, permission_timeout=0) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        while not await engine.pending(ADA, "s"):
            await anyio.sleep(0.01)
        store.failing, store.delay = True, 0.1

        async def answer() -> None:
            with pytest.raises(StoreFailed):
                await engine.answer(ADA, "s", "r", Decision("allow"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            await anyio.sleep(0.05)
            driver.agents[0].die()
        store.failing = False
        await quiet(engine, "s", 1)
        assert not (await engine.session(ADA, "s"))["pending_permissions"]


async def test_a_turn_of_the_agents_own_that_meets_the_close_does_not_hold_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portico.core.session_calls.CLOSE_SECONDS", 1.0)
    store = MoodyStore()
    driver = ScriptedDriver([turn(), turn(Gate())])
    async with scripted_engine(tmp_path, driver=driver, store=store) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello"))
        await quiet(engine, "s", 1)
        store.delay = 0.05
        driver.agents[0].begin("a task has ended")
        await anyio.sleep(0.02)  # its beginning is being stored
        await engine.close(ADA, "s")
        assert set((await ends(engine, "s")).values()) == {"end_turn", "interrupted"}


async def test_a_turn_of_the_agents_own_that_meets_the_stop_is_interrupted(tmp_path: Path) -> None:
    store = MoodyStore()
    driver = ScriptedDriver([turn(), turn(Gate())])
    async with scripted_engine(tmp_path, driver=driver, store=store) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello"))
        await quiet(engine, "s", 1)
        store.delay = 0.3
        driver.agents[0].begin("a task has ended")
        with anyio.fail_after(HANG_SECONDS):
            while (await engine.session(ADA, "s"))["turns"] < 2:  # its beginning is being stored
                await anyio.sleep(0.01)
        await engine.drain(0)
        assert set((await quiet(engine, "s", 2)).values()) == {"end_turn", "interrupted"}


async def test_of_two_changes_of_a_dormant_session_neither_is_lost(tmp_path: Path) -> None:
    store = MoodyStore()
    async with scripted_engine(tmp_path, store=store, session_timeout=0.05) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        with anyio.fail_after(HANG_SECONDS):
            while (await engine.session(ADA, "s"))["state"] != "dormant":
                await anyio.sleep(0.01)
        store.delay = 0.05
        async with anyio.create_task_group() as tasks:
            for given in ({"title": "new"}, {"metadata": {"a": 1}}):
                tasks.start_soon(engine.change, ADA, "s", SessionChanges(given))
        session = await engine.session(ADA, "s")
        assert (session["title"], session["metadata"]) == ("new", {"a": 1})


async def test_what_the_store_does_not_take_is_not_counted_and_changes_nothing(tmp_path: Path) -> None:
    store = MoodyStore()
    async with scripted_engine(tmp_path, store=store) as engine:
        before = await engine.create(ADA, NewSession(session_id="s"))
        store.failing = True
        with pytest.raises(StoreFailed):
            await engine.query(ADA, "s", NewTurn("hello"))
        with pytest.raises(StoreFailed):
            await engine.change(ADA, "s", SessionChanges({"title": "new", "model": "other"}))
        after = await engine.session(ADA, "s")
        assert (after["turns"], after["title"], after["model"]) == (0, None, before["model"])


class Fussy(ScriptedAgent):
    """Takes its time to refuse a message."""

    async def steer(self, turn: Turn) -> None:
        await anyio.sleep(0.1)
        raise InvalidRequest("no pictures", code="no_pictures")


class FussyDriver(ScriptedDriver):
    async def start(self, spec: AgentSpec) -> ScriptedAgent:
        agent = Fussy(spec, self._script)
        self.agents.append(agent)
        return agent


async def test_a_message_that_is_refused_as_the_turn_ends_is_ended_once(tmp_path: Path) -> None:
    gate = Gate()
    driver = FussyDriver([turn(gate), turn(), turn()])
    async with steered(tmp_path, driver, gate) as (engine, store):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.query, ADA, "s", NewTurn("hello", "three"))
            await anyio.sleep(0.02)
            tasks.start_soon(engine.change, ADA, "s", SessionChanges({"title": "new"}))
            await anyio.sleep(0.28)  # the refusal is being stored, together with the change
            gate.open()
        store.delay = 0.0
        assert (await quiet(engine, "s", 3))["two"] == "error"
        while (await engine.session(ADA, "s"))["state"] != "idle":
            await anyio.sleep(0.01)
        assert set(await ends(engine, "s")) == {"one", "two", "three"}


async def test_a_permission_that_expires_as_its_agent_dies_is_resolved(tmp_path: Path) -> None:
    store = MoodyStore()
    driver = ScriptedDriver([turn(Ask("Bash", request_id="r")), turn()])
    async with scripted_engine(tmp_path, driver=driver, store=store, permission_timeout=0.3) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        await engine.query(ADA, "s", NewTurn("hello", "one"))
        while not await engine.pending(ADA, "s"):
            await anyio.sleep(0.01)
        store.delay = 0.6
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.query, ADA, "s", NewTurn("hello", "two"))
            await anyio.sleep(0.45)  # the end of the request waits behind it
            driver.agents[0].die()
        store.delay = 0.0
        await quiet(engine, "s", 2)
        events, _ = await engine.history(ADA, "s", after=0, limit=1000)
        assert [event.type for event in events].count("permission_resolved") == 1


async def test_a_dormant_session_that_takes_no_query_takes_no_place_either(tmp_path: Path) -> None:
    store = MoodyStore()
    driver = ScriptedDriver(capabilities=())
    async with scripted_engine(tmp_path, driver=driver, store=store, session_timeout=0.01) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        with anyio.fail_after(HANG_SECONDS):
            while (await engine.session(ADA, "s"))["state"] != "dormant":
                await anyio.sleep(0.01)
    async with scripted_engine(tmp_path, driver=driver, store=store, max_sessions=1) as engine:
        with pytest.raises(Conflict):
            await engine.query(ADA, "s", NewTurn("hello", if_busy="interrupt"))
        with anyio.fail_after(HANG_SECONDS):
            while engine.occupancy().sessions:
                await anyio.sleep(0.01)
        await engine.create(ADA, NewSession())


class SlowToFind(MemoryStore):
    delay = 0.0

    async def get(self, session_id: str) -> SessionRecord | None:
        found = await super().get(session_id)
        await anyio.sleep(self.delay)
        return found


async def test_who_asks_for_an_id_that_is_taken_does_not_hide_the_session_that_has_it(tmp_path: Path) -> None:
    store = SlowToFind()
    async with scripted_engine(tmp_path, store=store) as engine:
        await engine.create(ADA, NewSession(session_id="s"))
        store.delay = 0.1

        async def ask() -> None:
            with pytest.raises(Conflict):
                await engine.create(Principal("bob"), NewSession(session_id="s"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(0.02)
            assert (await engine.session(ADA, "s"))["state"] == "idle"
