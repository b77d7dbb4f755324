"""The permission requests of the CLI that wait for an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portico.core.agent import Decision, Suggestion
from portico.core.errors import Conflict
from portico.core.events import Choice, PermissionRequest, Question, kind_of
from portico.plugins.claude_code.cli_details import why_asked
from portico.plugins.claude_code.lines import encode_line
from portico.plugins.claude_code.stream import Speaker

DENIED = "The user doesn't want this to be done."
PLANNED = "ExitPlanMode"
"""The tool that asks for permission to carry out the plan."""
ASKED = "AskUserQuestion"
"""The tool that asks the user questions."""
ELICITED = "elicitation"
"""The name for what an MCP server asks of the user: it is no tool, but each request names one."""


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

    def remembered(self, request_id: str, decision: Decision) -> Sequence[Suggestion]:
        """Return the rules and folders that ``decision`` remembers, if the request still waits."""
        waiting = self._waiting.get(request_id)
        if waiting is None or decision.behavior == "deny":
            return ()
        return [each for each in _remembered(waiting.event, decision) if not _is_mode(each)]

    def answer(self, request_id: str, decision: Decision, *, rules: bool = True) -> bytes:
        """Return the line that answers a request; without ``rules`` it adds none, and at most changes the mode.

        Raises `Conflict` (``already_resolved``) if the request no longer waits.
        """
        waiting = self._waiting.get(request_id)
        if waiting is None:
            raise Conflict(f"No permission request {request_id} is open.", code="already_resolved")
        response: dict[str, Any] = {"behavior": "deny", "message": decision.message or DENIED, "interrupt": False}
        if kind_of(waiting.event) == "elicitation":
            response = _elicited(decision)
        elif decision.behavior == "allow":
            given = waiting.event["input"] if decision.updated_input is None else dict(decision.updated_input)
            response = {"behavior": "allow", "updatedInput": given}
            updates = [each for each in _updates(waiting.event, decision) if rules or _is_mode(each)]
            if updates or (decision.remember and rules):
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
    if request.get("subtype") == "elicitation":
        return _elicitation(request)
    if request.get("subtype") != "can_use_tool" or not isinstance(request.get("input"), dict):
        return None
    event = PermissionRequest(
        type="permission_request",
        request_id="",
        tool_name=str(request.get("tool_name")),
        input=request["input"],
        kind="tool",
    )
    if isinstance(tool_use_id := request.get("tool_use_id"), str):
        event["tool_use_id"] = tool_use_id
    if (why := why_asked(request)) is not None:
        event["why"] = why
    if isinstance(suggestions := request.get("permission_suggestions"), list):
        event["suggestions"] = [suggestion for suggestion in suggestions if isinstance(suggestion, dict)]
    if event["tool_name"] == PLANNED:
        event["kind"], event["plan"] = "plan", str(event["input"].get("plan", ""))
        event["permission_mode"] = mode_after_plan
    if event["tool_name"] == ASKED and (questions := _questions(event["input"].get("questions"))):
        event["kind"], event["questions"] = "question", questions
    return {**event, **speaker}


def _questions(asked: Any) -> list[Question]:
    """Return the questions; none if one of them has another form than that which the CLI's tool lets through."""
    try:
        return [
            Question(
                question=str(each["question"]),
                header=str(each.get("header", "")),
                options=[_choice(option) for option in each["options"]],
                multi_select=each.get("multiSelect") is True,
            )
            for each in asked
        ]
    except (TypeError, KeyError, AttributeError):
        return []


def _choice(option: Mapping[str, Any]) -> Choice:
    choice = Choice(label=str(option["label"]), description=str(option.get("description", "")))
    if isinstance(preview := option.get("preview"), str):
        choice["preview"] = preview
    return choice


def _elicitation(request: Mapping[str, Any]) -> PermissionRequest:
    schema, url = request.get("requested_schema"), request.get("url")
    event = PermissionRequest(
        type="permission_request",
        request_id="",
        tool_name=ELICITED,
        input={name: request[name] for name in ("message", "mode", "requested_schema", "url") if name in request},
        kind="elicitation",
        mcp_server=str(request.get("mcp_server_name")),
        message=str(request.get("message", "")),
    )
    if isinstance(url, str):
        event["url"] = url
    else:
        event["schema"] = schema if isinstance(schema, dict) else {}
    return event


def _elicited(decision: Decision) -> dict[str, Any]:
    if decision.behavior == "deny":
        return {"action": "decline"}
    return {"action": "accept"} if decision.content is None else {"action": "accept", "content": dict(decision.content)}


def _updates(request: PermissionRequest, decision: Decision) -> Iterator[dict[str, Any]]:
    """Yield the permissions that apply from now on, to this session only: otherwise settings files would change."""
    # As announced or chosen, even if the CLI would switch to another mode.
    if (mode := decision.permission_mode or request.get("permission_mode")) is not None:
        yield {"type": "setMode", "mode": mode, "destination": "session"}
    for suggestion in _remembered(request, decision):
        yield {**suggestion, "destination": "session"}


def _remembered(request: PermissionRequest, decision: Decision) -> Sequence[Suggestion]:
    """Return the suggestions of ``request`` that ``decision`` remembers."""
    if decision.remember and not decision.remembered:
        return request.get("suggestions", ())
    return decision.remembered


def _is_mode(suggestion: Suggestion) -> bool:
    return suggestion.get("type") == "setMode"
