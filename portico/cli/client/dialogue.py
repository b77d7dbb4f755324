"""Dialogues on the terminal about requests of the agent that ask for more than permission."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from portico.cli.client.choice import chosen_labels, describe_field, field_value, fields, menu
from portico.cli.client.keyboard import Lines
from portico.cli.client.request import INDENT, visible
from portico.cli.client.screen import Screen

MOST_LINES = 200
"""Lines of a plan that are shown at once."""

DENY: Mapping[str, Any] = {"behavior": "deny"}


class Dialogue:
    """A dialogue with the user. At the end of the input (Ctrl-D) every request is denied."""

    def __init__(self, screen: Screen, lines: Lines) -> None:
        self._screen = screen
        self._lines = lines

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the user's answer to a request, as the body of the HTTP call."""
        try:
            match request["kind"]:
                case "question":
                    return await self._questions(request["questions"])
                case "plan":
                    return await self._plan(request["plan"])
                case "elicitation" if "url" in request:
                    return await self._page(request)
                case "elicitation":
                    return await self._form(request)
        except _Ended:
            self._screen.note("")
        return DENY

    async def _questions(self, questions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        answers: dict[str, Any] = {}
        for question in questions:
            several, options = question["multi_select"], question["options"]
            self._tell(f"? {visible(question['question'])}", *menu(options))
            hint = "numbers, such as 1,3," if several else "a number"
            labels = [option["label"] for option in options]
            while text := (await self._line(f"  your answer ({hint} or your own words; Enter skips it): ")).strip():
                try:
                    found = chosen_labels(text, labels, several=several)
                except ValueError as error:
                    self._tell(f"  {error}")
                    continue
                answers[question["question"]] = found if several else found[0]
                break
        if not answers:
            return {**DENY, "message": "The user has skipped the questions."}
        return {"behavior": "allow", "answers": answers}

    async def _plan(self, plan: str) -> Mapping[str, Any]:
        lines = [INDENT + visible(line) for line in plan.splitlines()] or [f"{INDENT}(it has no text)"]
        whole = len(lines) <= MOST_LINES
        while True:
            more = [] if whole else [f"{INDENT}... {len(lines) - MOST_LINES} more lines"]
            self._tell("? The agent has a plan:", *(lines if whole else lines[:MOST_LINES]), *more)
            view = "" if whole else ", [v]iew all"
            word = await self._line(f"  carry it out? [y]es, yes and [e]dit files without asking, [n]o{view}: ")
            match word.strip().lower():
                case "y" | "yes":
                    return {"behavior": "allow"}
                case "e" | "edit":
                    return {"behavior": "allow", "permission_mode": "acceptEdits"}
                case "n" | "no":
                    change = (await self._line("  what should be different? (Enter: nothing to say) ")).strip()
                    return {**DENY, "message": change} if change else DENY
                case "v" | "view":
                    whole = True

    async def _page(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._tell(*_asker(request), f"{INDENT}{visible(request['url'])}")
        return {"behavior": "allow"} if await self._agrees("  have you opened that page? [y]es, [n]o: ") else DENY

    async def _form(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._tell(*_asker(request))
        if not await self._agrees("  answer it? [y]es, [n]o: "):
            return DENY
        found = fields(request["schema"])
        if not found and request["schema"].get("properties") != {}:
            return {"behavior": "allow", "content": await self._json(request["schema"])}
        content: dict[str, Any] = {}
        for name, schema, required in found:
            *lines, prompt = describe_field(name, schema, required=required)
            self._tell(*lines)
            while True:
                text = await self._line(prompt)
                if not text.strip() and "default" in schema:
                    content[name] = schema["default"]
                elif text.strip():
                    try:
                        content[name] = field_value(text, schema)
                    except ValueError as error:
                        self._tell(f"  {error}")
                        continue
                elif required:
                    continue
                break
        return {"behavior": "allow", "content": content}

    async def _json(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        self._tell(INDENT + visible(json.dumps(schema, ensure_ascii=False)))
        while True:
            try:
                content = json.loads(await self._line("  a JSON object that fits this schema: "))
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict):
                return content
            self._tell("  that is no JSON object")

    async def _agrees(self, prompt: str) -> bool:
        while True:
            word = (await self._line(prompt)).strip().lower()
            if word in ("y", "yes", "n", "no"):
                return word in ("y", "yes")

    def _tell(self, *lines: str) -> None:
        if lines:
            self._screen.note("\n".join(lines), "yellow")

    async def _line(self, prompt: str) -> str:
        """Return what the user types. Raises `_Ended`."""
        while True:
            self._lines.forget()  # text typed before the question is no answer to it
            try:
                with self._screen.asking(prompt):
                    line = await self._lines.line()
            except ValueError:
                continue  # not text, so not an answer
            if line is None:
                raise _Ended
            return line


class _Ended(Exception):
    """There is no more input."""


def _asker(request: Mapping[str, Any]) -> list[str]:
    return [f"? {visible(request['mcp_server'])} asks: {visible(request['message'])}"]
