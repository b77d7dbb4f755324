"""Rules that answers have allowed belong to the session, until the operator or the owner removes them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import Decision
from portico.core.engine import Engine
from portico.core.errors import Conflict, InvalidRequest, NotFound, StoreFailed
from portico.core.events import AgentModel, Event
from portico.core.principal import Principal
from portico.core.requests import NewSession, NewTurn, SessionChanges
from portico.core.store import SessionRecord
from portico.core.suggestions import MAX_RULES, named
from portico.plugins.memory_store.store import MemoryStore
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.engine import scripted_engine
from portico.testing.scripted import CAPABILITIES, Ask, ScriptedDriver, turn
from tests.support.limits import HANG_SECONDS

ADA = Principal("ada")
ALWAYS = Decision("allow", remember=True)
KEEPING = CAPABILITIES | {"permission_rules"}

pytestmark = pytest.mark.anyio


def rule(content: str) -> dict[str, Any]:
    rules = [{"toolName": "Bash", "ruleContent": content}]
    return {"type": "addRules", "behavior": "allow", "rules": rules, "destination": "localSettings"}


def ask(*contents: str) -> Ask:
    return Ask("Bash", more={"suggestions": [rule(content) for content in contents]})


async def do(engine: Engine, asked: Ask | None = None, decision: Decision = ALWAYS) -> None:
    """A whole turn, in which what is asked gets this decision."""
    accepted = await engine.query(ADA, "s", NewTurn("go"))
    with anyio.fail_after(HANG_SECONDS):
        if asked is not None:
            while not (await engine.session(ADA, "s"))["pending_permissions"]:
                await anyio.sleep(0.005)
            await engine.answer(ADA, "s", asked.request_id, decision)
        while (await engine.query(ADA, "s", NewTurn("go", turn_id=accepted.turn_id))).state != "complete":
            await anyio.sleep(0.005)


async def kept(engine: Engine) -> list[str]:
    rules = (await engine.session(ADA, "s"))["permission_rules"]
    return [each["rules"][0]["ruleContent"] for each in rules]


@asynccontextmanager
async def engine_with(folder: Path, driver: ScriptedDriver, **more: Any) -> AsyncIterator[Engine]:
    async with scripted_engine(folder, driver=driver, **more) as engine:
        if await engine.sessions(ADA) == ([], None):
            await engine.create(ADA, NewSession(session_id="s"))
        yield engine


async def test_what_was_remembered_and_the_model_outlive_the_server(tmp_path: Path) -> None:
    asked = ask("ls", "make")
    told = AgentModel(type="model", model="big")
    driver = ScriptedDriver([turn(told, asked), turn()], capabilities=KEEPING)
    async with engine_with(tmp_path, driver, store=SqliteStore(tmp_path / "p.db")) as engine:
        assert (await engine.session(ADA, "s"))["model"] is None
        await do(engine, asked)
        assert await kept(engine) == ["ls", "make"]
        await do(engine)
        (sure,) = driver.agents[0].configured  # the next turn makes sure that it has what was remembered
        assert [each["rules"] for each in sure.permission_rules] == [rule(text)["rules"] for text in ("ls", "make")]
    again = ScriptedDriver([turn()], capabilities=KEEPING)
    async with engine_with(tmp_path, again, store=SqliteStore(tmp_path / "p.db")) as engine:
        view = await engine.session(ADA, "s")
        assert await kept(engine) == ["ls", "make"] and view["model"] == "big"
        await engine.change(ADA, "s", SessionChanges(revoked=view["permission_rules"][0]["id"]))
        with pytest.raises(NotFound):
            await engine.change(ADA, "s", SessionChanges(revoked=view["permission_rules"][0]["id"]))
        await do(engine)
        (spec,) = again.specs
        assert [each["rules"] for each in spec.options.permission_rules] == [rule("make")["rules"]]
        assert spec.options.model == "big"


async def test_an_answer_chooses_suggestions_by_their_ids(tmp_path: Path) -> None:
    asked = ask("ls", "make")
    driver = ScriptedDriver([turn(asked)], capabilities=KEEPING)
    first, second = named(asked.more["suggestions"])
    assert first["id"] != second["id"] and named([first, rule("ls")]) == [first]  # the same, wherever it is suggested
    async with engine_with(tmp_path, driver) as engine:
        with pytest.raises(InvalidRequest):
            await do(engine, asked, Decision("allow", remember=(first["id"], "other")))
        assert driver.agents[0].decisions == []
        await engine.answer(ADA, "s", asked.request_id, Decision("allow", remember=(second["id"],)))
        assert await kept(engine) == ["make"]
    assert driver.agents[0].decisions[0][1] == Decision("allow", remembered=(rule("make"),))


async def test_a_session_keeps_so_many_rules_and_says_which_it_did_not(tmp_path: Path) -> None:
    asked, more, same = ask(*map(str, range(MAX_RULES))), ask("one more"), ask("7")
    driver = ScriptedDriver([turn(asked), turn(more), turn(same)], capabilities=KEEPING)
    async with engine_with(tmp_path, driver) as engine:
        for each in (asked, more, same):
            await do(engine, each)
        assert len(await kept(engine)) <= MAX_RULES and "one more" not in await kept(engine)
        events, _ = await engine.history(ADA, "s", after=0, limit=100)
        notices = [found for event in events if (found := json.loads(event.data))["type"] == "notice"]
        left = [each["rules"][0]["ruleContent"] for found in notices for each in found["detail"]["suggestions"]]
        assert left[-1] == "one more" and len(left) == MAX_RULES + 1 - len(await kept(engine))


async def test_where_nothing_was_suggested_nothing_is_remembered_and_that_is_told(tmp_path: Path) -> None:
    asked = ask()
    driver = ScriptedDriver([turn(asked)], capabilities=KEEPING)
    async with engine_with(tmp_path, driver) as engine:
        await do(engine, asked)
        assert await kept(engine) == [] and driver.agents[0].decisions[0][1] == Decision("allow")
        events, _ = await engine.history(ADA, "s", after=0, limit=100)
        assert [
            found["detail"]["suggestions"] for e in events if (found := json.loads(e.data))["type"] == "notice"
        ] == [[]]


async def test_of_a_driver_without_the_capability_no_rules_are_kept(tmp_path: Path) -> None:
    asked = ask("ls")
    driver = ScriptedDriver([turn(asked)])
    async with engine_with(tmp_path, driver) as engine:
        await do(engine, asked)
        assert await kept(engine) == [] and driver.agents[0].decisions[0][1].remembered == (rule("ls"),)
        with pytest.raises(Conflict) as caught:
            await engine.change(ADA, "s", SessionChanges(revoked="any"))
        assert caught.value.code == "not_supported"


class _Refusing(MemoryStore):
    """A store that once refuses to keep the answer to a request."""

    refused = False

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        if not self.refused and any(event.type == "permission_resolved" for event in events):
            self.refused = True
            raise StoreFailed("no")
        await super().append(session_id, expected_seq, events, record)


async def test_an_answer_that_was_not_stored_has_allowed_nothing(tmp_path: Path) -> None:
    asked = ask("ls")
    driver = ScriptedDriver([turn(asked)], capabilities=KEEPING)
    async with engine_with(tmp_path, driver, store=_Refusing()) as engine:
        with pytest.raises(StoreFailed):
            await do(engine, asked)
        assert await kept(engine) == []
        await engine.answer(ADA, "s", asked.request_id, Decision("deny"))
        assert await kept(engine) == []
