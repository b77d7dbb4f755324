"""Answers to the agent's requests, given by a person or without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from portico.cli.client.dialogue import DENY, Dialogue
from portico.cli.client.keyboard import Lines
from portico.cli.client.request import describe_request, grants
from portico.cli.client.screen import Screen
from portico.cli.client.transcript import Piece, describe_tool

Answer = Mapping[str, Any]
"""An answer, as the body of the HTTP call. ``remember``: allow what the agent suggests for the rest of the session."""
Decide = Callable[[Mapping[str, Any]], Awaitable[Answer]]
"""A function that answers a ``permission_request`` event."""

ALLOW: Answer = {"behavior": "allow"}
REMEMBER: Answer = {"behavior": "allow", "remember": True}
WORDS: Mapping[str, Answer] = {"y": ALLOW, "yes": ALLOW, "n": DENY, "no": DENY}
ALWAYS: Mapping[str, Answer] = {"a": REMEMBER, "always": REMEMBER}


def say_yes(screen: Screen) -> Decide:
    async def decide(request: Mapping[str, Any]) -> Answer:
        if request.get("kind") in ("question", "elicitation"):
            screen.note(f"not answered: {_tool(request)} (there is nobody to ask)", "yellow")
            return {**DENY, "message": "Nobody is there to answer."}
        screen.show([Piece("notice", f"allowed: {_tool(request)}")])
        return ALLOW

    return decide


def say_no(screen: Screen, hint: str) -> Decide:
    async def decide(request: Mapping[str, Any]) -> Answer:
        screen.note(f"denied: {_tool(request)} ({hint})", "yellow")
        return DENY

    return decide


def ask_user(screen: Screen, lines: Lines) -> Decide:
    """Make a decider that asks on the terminal, one question at a time."""
    turn = anyio.Lock()
    dialogue = Dialogue(screen, lines)

    async def decide(request: Mapping[str, Any]) -> Answer:
        async with turn:
            with lines.echoing():
                if request.get("kind", "tool") != "tool":
                    return await dialogue.answer(request)
                return await _ask(request, screen, lines)

    return decide


async def _ask(request: Mapping[str, Any], screen: Screen, lines: Lines) -> Answer:
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
        try:
            with screen.asking(f"  allow it? {choices}: "):
                answer = await lines.line()
        except ValueError:
            continue  # not text, so not an answer
        if answer is None:
            screen.note("")
            return DENY
        word = answer.strip().lower()
        if word in answers:
            return answers[word]
        whole = whole or word in ("v", "view")


def _tool(request: Mapping[str, Any]) -> str:
    return describe_tool(request["tool_name"], request["input"])
