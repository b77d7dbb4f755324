"""Who says yes or no when the agent asks for leave to use a tool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import anyio

from portico.client.keyboard import Lines
from portico.client.screen import Screen
from portico.client.transcript import Piece, describe_tool

Decision = Literal["allow", "deny", "remember"]
"""``remember``: allow, now and for the rest of the session."""
Decide = Callable[[Mapping[str, Any]], Awaitable[Decision]]
"""Takes a ``permission_request`` event."""

WORDS: Mapping[str, Decision] = {"y": "allow", "yes": "allow", "n": "deny", "no": "deny", "a": "remember"}


def say_yes(screen: Screen) -> Decide:
    async def decide(request: Mapping[str, Any]) -> Decision:
        screen.show([Piece("notice", f"allowed: {_tool(request)}")])
        return "allow"

    return decide


def say_no(screen: Screen, hint: str) -> Decide:
    async def decide(request: Mapping[str, Any]) -> Decision:
        screen.note(f"denied: {_tool(request)} ({hint})", "yellow")
        return "deny"

    return decide


def ask_user(screen: Screen, lines: Lines) -> Decide:
    """Asks on the terminal, one question at a time."""
    turn = anyio.Lock()

    async def decide(request: Mapping[str, Any]) -> Decision:
        async with turn:
            while True:
                lines.forget()  # what was typed before the question is no answer to it
                screen.note(f"? {_tool(request)}", "yellow")
                screen.note("  allow it? [y]es, [n]o, [a]lways in this session: ", "yellow", end="")
                answer = await lines.line()
                if answer is None:
                    screen.note("")
                    return "deny"
                if decision := WORDS.get(answer.strip().lower()):
                    return decision

    return decide


def _tool(request: Mapping[str, Any]) -> str:
    return describe_tool(request["tool_name"], request["input"])
