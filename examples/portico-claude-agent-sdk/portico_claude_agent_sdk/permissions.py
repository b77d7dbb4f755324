"""The SDK's permission callback, as the requests and answers of the CLI's control protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
from claude_agent_sdk import (
    PermissionResultAllow,
    PermissionResultDeny,
    PermissionUpdate,
    ToolPermissionContext,
)

Json = dict[str, Any]


class Callbacks:
    """The callbacks that wait for an answer. ``tell`` gets the lines with which the CLI asks."""

    def __init__(self, tell: Callable[[Json], None]) -> None:
        self._tell = tell
        self._waiting: dict[str, _Answer] = {}

    async def ask(
        self, tool_name: str, given: Json, context: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        """Ask, and wait for as long as the CLI does; the SDK cancels this if the CLI withdraws the request."""
        request_id = str(uuid4())
        request = {
            "subtype": "can_use_tool",
            "tool_name": tool_name,
            "input": given,
            "tool_use_id": context.tool_use_id,
            "permission_suggestions": list(_suggested(context)),
        }
        answer = self._waiting[request_id] = _Answer()
        try:
            self._tell({"type": "control_request", "request_id": request_id, "request": request})
            await answer.given.wait()
        except anyio.get_cancelled_exc_class():
            self._tell({"type": "control_cancel_request", "request_id": request_id})
            raise
        finally:
            del self._waiting[request_id]
        if answer.response["behavior"] != "allow":
            return PermissionResultDeny(message=answer.response["message"])
        remembered = answer.response.get("updatedPermissions")
        return PermissionResultAllow(
            updated_input=answer.response["updatedInput"],
            updated_permissions=remembered and [PermissionUpdate.from_dict(update) for update in remembered],
        )

    def answer(self, line: bytes) -> None:
        """Pass a ``control_response`` to the callback that it answers."""
        response = json.loads(line)["response"]
        if answer := self._waiting.get(response["request_id"]):
            answer.response = response["response"]
            answer.given.set()


def _suggested(context: ToolPermissionContext) -> Iterator[Json]:
    for suggestion in context.suggestions:
        with suppress(ValueError):  # the SDK does not know its type; the request itself is valid
            yield suggestion.to_dict()


@dataclass(slots=True)
class _Answer:
    given: anyio.Event = field(default_factory=anyio.Event)
    response: Json = field(default_factory=dict)
