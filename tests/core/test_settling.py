"""No streamed text is left without a message that settles it, however a turn ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from portico.core import recovery
from portico.core.accounts import NoAccounts
from portico.core.agent import AgentDriver
from portico.core.errors import AgentFailed
from portico.core.events import Delta, EventBody, Message
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn
from portico.core.settling import unsettled
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.engine import scripted_engine
from portico.testing.scripted import Fail, Gate, ScriptedDriver, turn

pytestmark = pytest.mark.anyio
ADA = Principal("ada")


def delta(content: str, index: int = 0) -> Delta:
    return Delta(type="delta", content=content, message_id="m", index=index)


def message(*texts: str, index: int = 0) -> Message:
    blocks = [{"type": "text", "text": text} for text in texts]
    return Message(type="message", role="assistant", content=blocks, message_id="m", index=index)


def test_only_what_no_message_covers_is_taken_back() -> None:
    assert unsettled([delta("a"), message("a")]) == []
    assert unsettled([delta("a"), message("a", "b"), delta("c", 2), message(index=1)]) == []
    assert unsettled([message("a"), delta("b", 1)]) == [message(index=1)]
    theirs: Delta = {**delta("c"), "parent_tool_use_id": "t", "subagent": "s"}
    assert unsettled([theirs, delta("a"), message("a")]) == [{**message(), "parent_tool_use_id": "t", "subagent": "s"}]
    assert unsettled([Delta(type="delta", content="of no message")]) == []


async def told(driver: AgentDriver, folder: Path) -> list[EventBody]:
    async with scripted_engine(folder, driver=driver) as engine:
        session = await engine.create(ADA, NewSession())
        asked = await engine.query(ADA, session["session_id"], NewTurn("x"))
        reader = await engine.reader(ADA, session["session_id"], turn_id=asked.turn_id)
        found: list[EventBody] = []
        while events := await reader.read():
            found += [json.loads(event.data) for event in events]
        return found


@pytest.mark.parametrize("last", [[Fail(AgentFailed("gone"))], turn(stop_reason="interrupted")])
async def test_a_turn_that_ends_in_the_middle_of_a_block_takes_it_back(tmp_path: Path, last: Any) -> None:
    events = await told(ScriptedDriver([[delta("half a wo"), *last]]), tmp_path)
    kinds = [event["type"] for event in events]
    assert kinds[-1] == "complete"
    (void,) = [event for event in events if event["type"] == "message"]
    assert (void["message_id"], void["index"], void["content"]) == ("m", 0, [])
    assert kinds.index("message") == kinds.index("delta") + 1


async def test_a_server_that_was_killed_takes_it_back_at_its_next_start(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    async with scripted_engine(tmp_path, store=store, driver=ScriptedDriver([turn(delta("half"), gate)])) as engine:
        session = (await engine.create(ADA, NewSession()))["session_id"]
        await engine.query(ADA, session, NewTurn("x"))
        await gate.reached.wait()
        reader = await engine.reader(ADA, session)
        while not any(event.type == "delta" for event in await reader.read()):
            pass
        copy = await _copied(store, session)
    async for _ in recovery.recover(copy, NoAccounts()):
        pass
    types = [event.type for event in await copy.read(session, 0, 100)]
    assert types[-4:] == ["message", "error", "complete", "session"]


async def _copied(store: MemoryStore, session_id: str) -> MemoryStore:
    """The store as a kill would leave it."""
    copy = MemoryStore()
    record = await store.get(session_id)
    assert record is not None
    await copy.create(record)
    await copy.append(session_id, 0, await store.read(session_id, 0, 1000), record)
    return copy
