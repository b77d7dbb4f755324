"""The permission requests of the CLI that wait for an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from portico.core.agent import Decision
from portico.core.errors import Conflict
from portico.core.events import PermissionRequest
from portico.core.suggestions import chosen
from portico.plugins.claude_code.cli_details import why_asked
from portico.plugins.claude_code.lines import encode_line
from portico.plugins.claude_code.stream import Speaker

DENIED = "The user doesn't want this to be done."
PLANNED = "ExitPlanMode"
"""The tool that asks for permission to carry out the plan."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A waiting request. ``cli_id`` is the CLI's own id, which may be asked under several of our ids."""

    cli_id: str
    event: PermissionRequest


class CliPermissions:
    """The requests that wait for an answer. Each time a request is asked, it gets a new id, never used before."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._asked = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids; the requests may be answered in the meantime."""
        return iter(list(self._waiting))

    def ask(self, cli_id: str, event: PermissionRequest) -> PermissionRequest:
        """Register a request; return it as it is to be asked."""
        self._asked += 1
        event = event.copy()
        event["request_id"] = f"{cli_id}-{self._asked}"
        self._waiting[event["request_id"]] = _Waiting(cli_id, event)
        return event

    def answer(self, request_id: str, decision: Decision) -> bytes:
        """Return the line that answers a request. Raises `Conflict` (``already_resolved``) if it no longer waits."""
        waiting = self._waiting.get(request_id)
        if waiting is None:
            raise Conflict(f"No permission request {request_id} is open.", code="already_resolved")
        response: dict[str, Any] = {"behavior": "deny", "message": decision.message or DENIED, "interrupt": False}
        if decision.behavior == "allow":
            given = waiting.event["input"] if decision.updated_input is None else dict(decision.updated_input)
            response = {"behavior": "allow", "updatedInput": given}
            updates = list(_updates(waiting.event, decision))
            if updates or decision.remember:
                response["updatedPermissions"] = updates
        success = {"subtype": "success", "request_id": waiting.cli_id, "response": response}
        line = encode_line({"type": "control_response", "response": success})
        del self._waiting[request_id]
        return line

    def withdraw(self, cli_id: Any) -> list[str]:
        """Forget the requests that the CLI withdraws; return their ids."""
        found = [request_id for request_id, waiting in self._waiting.items() if waiting.cli_id == cli_id]
        for request_id in found:
            del self._waiting[request_id]
        return found

    def take_all(self) -> dict[str, tuple[str, PermissionRequest]]:
        """Forget all requests; return, by id, the arguments of `ask` for each."""
        waiting, self._waiting = self._waiting, {}
        return {request_id: (one.cli_id, one.event) for request_id, one in waiting.items()}


def permission_request(request: Mapping[str, Any], speaker: Speaker, mode_after_plan: str) -> PermissionRequest | None:
    """Return the request in a ``control_request`` of the CLI; None if it asks for something else."""
    if request.get("subtype") != "can_use_tool" or not isinstance(request.get("input"), dict):
        return None
    event = PermissionRequest(
        type="permission_request",
        request_id="",
        tool_name=str(request.get("tool_name")),
        input=request["input"],
    )
    if isinstance(tool_use_id := request.get("tool_use_id"), str):
        event["tool_use_id"] = tool_use_id
    if (why := why_asked(request)) is not None:
        event["why"] = why
    if isinstance(suggestions := request.get("permission_suggestions"), list):
        event["suggestions"] = [suggestion for suggestion in suggestions if isinstance(suggestion, dict)]
    if event["tool_name"] == PLANNED:
        event["permission_mode"] = mode_after_plan
    return {**event, **speaker}


def _updates(request: PermissionRequest, decision: Decision) -> Iterator[dict[str, Any]]:
    """Yield the permissions that apply from now on, to this session only: otherwise settings files would change."""
    if "permission_mode" in request:  # as announced, even if the CLI would switch to another mode
        yield {"type": "setMode", "mode": request["permission_mode"], "destination": "session"}
    suggestions = decision.remembered
    if decision.remember and not suggestions:
        suggestions = tuple(chosen(request.get("suggestions", ())))
    for suggestion in suggestions:
        yield {**suggestion, "destination": "session"}
