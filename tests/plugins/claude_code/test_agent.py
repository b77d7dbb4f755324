"""The agent on a CLI that misbehaves as the real one can't be made to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from portico.core.agent import OwnTurn, Turn
from portico.core.errors import AgentFailed, AgentUnavailable
from portico.core.events import Message
from portico.plugins.claude_code import claude_agent as agent_module
from portico.plugins.claude_code import process as process_module
from portico.plugins.claude_code.buffer import EventBuffer
from portico.plugins.claude_code.claude_agent import ClaudeAgent
from tests.support.agents import live, no_descriptors, processes_of
from tests.support.claude import Event, driving, kinds, new_spec, own_turn, started, text, turn
from tests.support.fake_cli import fake_cli
from tests.support.limits import HANG_SECONDS
from tests.support.loop import longest_step
from tests.support.threads import no_threads

pytestmark = [pytest.mark.anyio, pytest.mark.fake_agent]

STARTED = json.dumps({"type": "command_lifecycle", "command_uuid": "UUID", "state": "started"})
COMPLETED = json.dumps({"type": "command_lifecycle", "command_uuid": "UUID", "state": "completed"})
INIT = json.dumps({"type": "system", "subtype": "init", "user_message_uuids": ["UUID"]})
OWN_INIT = json.dumps({"type": "system", "subtype": "init"})
RESULT = json.dumps({"type": "result", "is_error": False, "user_message_uuids": ["UUID"]})
OWN_RESULT = json.dumps({"type": "result", "is_error": False, "origin": {"kind": "task-notification"}})


def said(words: str, **members: Any) -> str:
    message = {"id": "m", "content": [{"type": "text", "text": words}]}
    return json.dumps({"type": "assistant", "message": message, **members})


@asynccontextmanager
async def fake(folder: Path, *steps: Any) -> AsyncIterator[ClaudeAgent]:
    async with driving(folder, cli_path=fake_cli(folder, *steps)) as driver:
        await driver.check()
        async with started(driver, new_spec(folder)) as agent:
            yield agent
        assert not processes_of(folder)


async def test_half_lines_and_garbage_between_lines_change_nothing(tmp_path: Path) -> None:
    garbage = ["", "not JSON", "[]", "null", '{"type": 7}', '{"type": "unheard_of"}', "\x00\x01", '{"type": "system"}']
    garbage += ["[" * 5000, '{"type":"user","message":{"content":' + "[" * 500 + "]" * 500 + "}}"]
    cut = INIT[:20], INIT[20:]
    async with fake(tmp_path, {"wait": 1}, *garbage, STARTED, {"half": cut[0]}, cut[1], said("hello"), *garbage,
                    RESULT, {"turn": "again"}, {"hang": True}) as agent:  # fmt: skip
        assert text(await turn(agent, "x")) == "hello"
        assert text(await turn(agent, "x")) == "again"


async def test_a_line_of_20_mebibytes_is_read(tmp_path: Path) -> None:
    async with fake(tmp_path, {"turn": "y" * (20 << 20)}, {"hang": True}) as agent:
        assert len(text(await turn(agent, "x"))) == 20 << 20


async def test_a_longer_line_is_an_error_and_the_turn_and_the_session_go_on(tmp_path: Path) -> None:
    async with fake(tmp_path, {"wait": 1}, STARTED, 40 << 20, said("after it"), RESULT, {"turn": "next"}) as agent:
        events = await turn(agent, "x")
        assert kinds(events) == ["error", "message", "complete"]
        assert events[0]["code"] == "agent_line_too_long"
        assert str(40 << 20) in events[0]["error"]
        assert text(await turn(agent, "x")) == "next"


async def test_a_long_line_keeps_nobody_waiting(tmp_path: Path) -> None:
    values = [{"n": n} for n in range(80_000)]
    block = {
        "type": "tool_use",
        "id": "u",
        "name": "n",
        "input": {"values": values, **{f"m{n}": n for n in range(2000)}},
    }
    long = json.dumps({"type": "assistant", "message": {"id": "m", "content": [block]}})
    async with fake(tmp_path, {"wait": 1}, STARTED, long, RESULT, {"hang": True}) as agent:
        async with longest_step() as longest:
            events = await turn(agent, "x")
        assert kinds(events) == ["message", "tool_use", "complete"]
        assert events[1]["input"] == block["input"]
        assert longest[0] < 0.04


async def test_a_line_of_too_many_values_is_an_error_and_the_turn_and_the_session_go_on(tmp_path: Path) -> None:
    many = json.dumps({"type": "assistant", "message": {"id": "m", "content": [{}] * 300_000}})
    async with fake(tmp_path, {"wait": 1}, STARTED, many, said("after it"), RESULT, {"turn": "next"}) as agent:
        events = await turn(agent, "x")
        assert kinds(events) == ["error", "message", "complete"]
        assert events[0]["code"] == "agent_line_too_long"
        assert text(await turn(agent, "x")) == "next"


async def test_long_lines_may_hold_any_character_and_garbage(tmp_path: Path) -> None:
    words = "y" * (9 << 20) + "\U0001f600\ud800"
    deep = said("x" * 300_000).replace('"type": "text"', '"deep": ' + "[" * 500 + "]" * 500 + ', "type": "text"')
    garbage = ["x" * 300_000, "[" + "1," * 150_000 + "1]", '"' + "x" * 300_000 + '"', deep]
    async with fake(tmp_path, {"wait": 1}, STARTED, *garbage, said(words), RESULT, {"hang": True}) as agent:
        events = await turn(agent, "x")
        assert kinds(events) == ["message", "complete"]
        assert text(events) == words


async def test_a_turn_ends_also_when_its_result_was_too_long(tmp_path: Path) -> None:
    async with fake(tmp_path, {"wait": 1}, STARTED, 40 << 20, COMPLETED, {"turn": "next"}) as agent:
        assert kinds(await turn(agent, "x")) == ["error", "complete"]
        assert text(await turn(agent, "x")) == "next"


async def test_a_cli_that_dies_at_its_start_says_why(tmp_path: Path) -> None:
    async with fake(tmp_path, {"complain": "no such luck"}, {"exit": 3}) as agent:
        with pytest.raises(AgentUnavailable) as caught:
            await turn(agent, "x")
        assert caught.value.code == "cli_failed_to_start"
        assert "no such luck" in caught.value.detail and "3" in caught.value.detail
        with pytest.raises(AgentUnavailable):
            await agent.watch()


async def test_the_fallback_is_tried_once(tmp_path: Path) -> None:
    async with fake(tmp_path, {"complain": "Error: Session ID x is already in use."}, {"exit": 1}) as agent:
        with pytest.raises(AgentUnavailable) as caught:
            await turn(agent, "x")
        assert caught.value.code == "session_in_use"


async def test_a_cli_that_dies_in_mid_turn_says_why_after_all_it_had_said(tmp_path: Path) -> None:
    async with fake(tmp_path, {"wait": 1}, STARTED, INIT, said("half"), {"complain": "ouch"}, {"exit": 4}) as agent:
        seen = []
        with pytest.raises(AgentFailed) as caught:
            async for event in agent.run(Turn("t", "x")):
                seen.append(event["type"])
        assert seen == ["message"]
        assert caught.value.code == "agent_exited"
        assert "ouch" in caught.value.detail and "4" in caught.value.detail


async def test_a_cli_that_answers_nothing_can_still_be_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "CONTROL_TIME", 0.3)
    monkeypatch.setattr(agent_module, "SETTLE_TIME", 0.3)
    async with fake(tmp_path, {"wait": 1}, STARTED, said("x"), {"hang": True}) as agent:
        async for _ in agent.run(Turn("t", "x")):
            break
        with pytest.raises(AgentFailed) as caught:
            await agent.interrupt()
        assert caught.value.code == "agent_stalled"
        with pytest.raises(AgentFailed) as caught:
            await turn(agent, "y")
        assert caught.value.code == "agent_stalled"
        with anyio.fail_after(HANG_SECONDS):
            await agent.close()


async def test_a_slow_reader_holds_the_cli_back_and_an_interrupt_still_passes(tmp_path: Path) -> None:
    answer = json.dumps({"type": "control_response", "response": {"subtype": "success", "request_id": "portico-1"}})
    steps = [{"wait": 1}, STARTED, INIT, *(said("y" * 100_000) for _ in range(150)), {"wait": 1}, answer, RESULT]
    async with fake(tmp_path, *steps, {"hang": True}) as agent:
        lines = 0
        async for event in agent.run(Turn("t", "x")):
            if event["type"] != "message":
                continue
            if lines == 0:
                await anyio.sleep(0.5)
                assert agent._said._bytes < 6 << 20
                # The fake one only hears it after its 15 MB have been read.
                with anyio.fail_after(HANG_SECONDS):
                    await agent.interrupt()
            lines += 1
        assert lines == 150


async def test_what_subagents_say_between_turns_is_told_before_the_next(tmp_path: Path) -> None:
    steps = [said("z", parent_tool_use_id="t", agent_id="a") for _ in range(3)]
    async with fake(tmp_path, {"turn": "first"}, *steps, OWN_INIT, said("own"), OWN_RESULT, {"hang": True}) as agent:
        await turn(agent, "x")
        asides: list[Event] = []
        with anyio.fail_after(HANG_SECONDS):
            events = await turn(agent, await own_turn(agent, asides))
        assert text(asides) == "zzz" and text(events) == "own"


async def test_what_nobody_takes_between_turns_is_kept_within_bounds() -> None:
    buffer = EventBuffer()
    message = Message(type="message", role="assistant", content=[], parent_tool_use_id="t")
    for _ in range(300):
        buffer.put(message, 10_000, idle=True)
    buffer.put(OwnTurn("own"), 100, idle=False)
    kept = 0
    while not isinstance(await buffer.own_turn(), OwnTurn):
        kept += 1
    assert 5 < kept < 40


async def test_an_interrupt_reaches_a_steered_turn_that_the_cli_has_not_begun_yet(tmp_path: Path) -> None:
    result = json.dumps({"type": "result", "is_error": False})
    details = {"subtype": "success", "request_id": "portico-1", "response": {"still_queued": ["UUID"]}}
    answer = json.dumps({"type": "control_response", "response": details})
    stopped = json.dumps({"type": "result", "is_error": True, "terminal_reason": "aborted_streaming"})
    first, second = Turn("t", "x"), Turn("s", "y")
    steps = [{"wait": 1}, STARTED, INIT, said("first"), {"wait": 1}, result]
    async with fake(
        tmp_path, *steps, {"wait": 1}, answer, STARTED, INIT, {"wait": 1}, stopped, {"hang": True}
    ) as agent:
        async for event in agent.run(first):
            if event["type"] == "message":
                await agent.steer(second)
        events = []

        async def follow() -> None:
            events.extend(await turn(agent, second))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            await agent.interrupt()
        assert [e.get("stop_reason") for e in events] == ["interrupted"]


async def test_one_that_ends_while_no_descriptor_is_free_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "KILL_TIME", 0.1)
    steps = {"turn": "hello"}, {"turn": "again"}
    async with driving(tmp_path, cli_path=fake_cli(tmp_path, *steps)) as driver:
        async with started(driver, new_spec(tmp_path)) as other, started(driver, new_spec(tmp_path)) as agent:
            for each in (other, agent):
                assert text(await turn(each, "x")) == "hello"
            with no_descriptors():
                await agent.close()
            assert text(await turn(other, "x")) == "again"


async def test_one_that_ends_while_no_thread_can_be_started_takes_no_other_along(tmp_path: Path) -> None:
    async with driving(tmp_path, cli_path=fake_cli(tmp_path, {"turn": "hello"}, {"turn": "again"})) as driver:
        spec = new_spec(tmp_path)
        async with started(driver, new_spec(tmp_path)) as other, started(driver, spec) as agent:
            for each in (other, agent):
                assert text(await turn(each, "x")) == "hello"
            before = processes_of(spec.folder)
            async with anyio.create_task_group() as tasks, no_threads(tasks):
                await agent.close()
            assert before and not live(before)
            assert text(await turn(other, "x")) == "again"


async def test_unknown_requests_are_declined(tmp_path: Path) -> None:
    request = json.dumps({"type": "control_request", "request_id": "r", "request": {"subtype": "bogus"}})
    async with fake(tmp_path, {"wait": 1}, STARTED, request, {"wait": 1}, said("declined"), RESULT) as agent:
        assert text(await turn(agent, "x")) == "declined"


async def test_a_cli_that_is_missing_shows_at_the_check_and_at_the_start(tmp_path: Path) -> None:
    async with driving(tmp_path, cli_path=tmp_path / "nowhere") as driver:
        for attempt in (driver.check(), driver.start(new_spec(tmp_path))):
            with pytest.raises(AgentUnavailable) as caught:
                await attempt
            assert caught.value.code == "cli_not_found"


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    async with driving(tmp_path, cli_path=fake_cli(tmp_path, {"hang": True})) as driver:
        for after in (0, 0.001, 0.003, 0.01, 0.03):
            spec = new_spec(tmp_path)
            agent = None
            with anyio.move_on_after(after):
                agent = await driver.start(spec)
            if agent is not None:
                await agent.close()
            assert not processes_of(spec.folder)
