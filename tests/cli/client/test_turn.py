"""A turn's events in, and what becomes of the questions in them."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio
import pytest

from portico.cli.client.api import Client, Event
from portico.cli.client.connection import Endpoint
from portico.cli.client.keyboard import Lines
from portico.cli.client.leave import ALLOW, Answer, ask_user
from portico.cli.client.screen import Screen
from portico.cli.client.transcript import Piece
from portico.cli.client.turn import TurnView
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

QUESTION = {
    "type": "permission_request",
    "request_id": "r",
    "tool_name": "Write",
    "input": {"file_path": "a"},
    "suggestions": [],
}
RESOLVED = {"type": "permission_resolved", "request_id": "r", "behavior": "deny", "reason": "timeout"}
COMPLETE = {"type": "complete", "stop_reason": "end_turn", "usage": {}, "cost_usd": 0, "duration_ms": 1}


class Asked:
    """A user who is asked, and answers once ``typed`` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.asking = anyio.Event()
        self.typed = anyio.Event()

    async def __call__(self, request: Mapping[str, Any]) -> Answer:
        self.count += 1
        self.asking.set()
        await self.typed.wait()
        return ALLOW


async def shown(events: AsyncGenerator[Event, None], asked: Asked) -> tuple[str | None, str]:
    """Return the end of the turn, and the printed text. There is no server, so each answer to one is printed too."""
    out = io.StringIO()
    send, presses = anyio.create_memory_object_stream[None](2)
    async with Client(Endpoint("http://127.0.0.1:1")) as client:
        with send, presses, anyio.fail_after(HANG_SECONDS):
            view = TurnView(client, "s", "t", Screen(out, out, details=True), asked)
            outcome = await view.show(events, presses)
    return outcome.stop_reason, out.getvalue()


async def test_a_question_that_comes_together_with_its_answer_is_not_asked() -> None:
    asked = Asked()

    async def events() -> AsyncGenerator[Event, None]:
        yield QUESTION
        yield RESOLVED
        await anyio.wait_all_tasks_blocked()
        yield COMPLETE

    stop_reason, printed = await shown(events(), asked)
    assert (stop_reason, asked.count) == ("end_turn", 0), printed


async def test_an_answer_that_is_typed_just_when_the_question_is_settled_does_not_count() -> None:
    asked = Asked()

    async def events() -> AsyncGenerator[Event, None]:
        yield QUESTION
        await asked.asking.wait()
        asked.typed.set()
        yield RESOLVED
        await anyio.wait_all_tasks_blocked()
        yield COMPLETE

    stop_reason, printed = await shown(events(), asked)
    assert stop_reason == "end_turn"
    assert "no answer is needed any more" in printed and "did not count" not in printed


async def test_an_answer_that_is_no_text_is_none() -> None:
    reading, writing = os.pipe()
    out = io.StringIO()
    decide = ask_user(Screen(out, out, details=True), Lines(reading))
    decisions: list[Answer] = []

    async def asked() -> None:
        decisions.append(await decide(QUESTION))

    try:
        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(asked)
                for times, line in enumerate((b"\xff\n", b"y\n"), 1):
                    while out.getvalue().count("allow it?") < times:
                        await anyio.sleep(0.01)
                    os.write(writing, line)
    finally:
        os.close(reading)
        os.close(writing)
    assert decisions == [ALLOW]


async def test_what_comes_while_a_question_waits_begins_a_line_of_its_own() -> None:
    out = io.StringIO()
    screen = Screen(out, out, details=True)
    with screen.asking("allow it? "):
        screen.show([Piece("text", "It is on its way.\n"), Piece("thinking", "hm")])
    screen.note("now")
    with screen.asking("allow it? "):
        out.write("y\n")  # the terminal shows what is typed
    screen.show([Piece("text", "Done.\n")])
    assert out.getvalue().splitlines() == ["allow it? ", "It is on its way.", "hm", "now", "allow it? y", "Done."]
