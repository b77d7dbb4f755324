"""Decisions on the agent's requests for permission to use a tool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import anyio

from portico.cli.client.keyboard import Lines
from portico.cli.client.request import describe_request, grants
from portico.cli.client.screen import Screen
from portico.cli.client.transcript import Piece, describe_tool

Decision = Literal["allow", "deny", "remember"]
"""An answer. ``remember``: allow, and also what the agent suggests to allow for the rest of the session."""
Decide = Callable[[Mapping[str, Any]], Awaitable[Decision]]
"""A function that decides on a ``permission_request`` event."""

WORDS: Mapping[str, Decision] = {"y": "allow", "yes": "allow", "n": "deny", "no": "deny"}
ALWAYS: Mapping[str, Decision] = {"a": "remember", "always": "remember"}


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
    """Make a decider that asks on the terminal, one question at a time."""
    turn = anyio.Lock()

    async def decide(request: Mapping[str, Any]) -> Decision:
        async with turn:
            with lines.echoing():
                return await _ask(request, screen, lines)

    return decide


async def _ask(request: Mapping[str, Any], screen: Screen, lines: Lines) -> Decision:
    always = grants(request.get("suggestions", []))
    answers = {**WORDS, **(ALWAYS if always else {})}
    whole = False
    while True:
        lines.forget()  # text typed before the question is no answer to it
        described = describe_request(request, whole=whole)
        screen.note("\n".join(["? " + described.lines[0], *described.lines[1:]]), "yellow")
        choices = "[y]es, [n]o" + (", [v]iew all" if described.cut else "") + (", [a]lways" if always else "")
        if always:
            screen.note(f"  [a]lways: {always}", "yellow")
        screen.note(f"  allow it? {choices}: ", "yellow", end="")
        try:
            answer = await lines.line()
        except ValueError:
            continue  # not text, so not an answer
        if answer is None:
            screen.note("")
            return "deny"
        word = answer.strip().lower()
        if word in answers:
            return answers[word]
        whole = whole or word in ("v", "view")


def _tool(request: Mapping[str, Any]) -> str:
    return describe_tool(request["tool_name"], request["input"])
