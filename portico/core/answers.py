"""The limits of an answer to a permission request: it may do no more than the operator allows, whoever gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from portico.core.agent import AgentOptions, Decision
from portico.core.events import Notice, PermissionRequest
from portico.core.policy import Policy
from portico.core.suggestions import allowed, suggested, whole_tool


def judge(
    decision: Decision,
    request: PermissionRequest,
    policy: Policy,
    options: AgentOptions,
    folders: Mapping[str, str],
) -> tuple[Decision, list[Notice]]:
    """Return ``decision`` as the agent may get it, and notices of the parts that were left out.

    ``options`` are the session's; ``folders`` are those that `open_folders` has found. Raises `NotAllowed`.
    """
    if decision.behavior == "deny":
        return decision, []
    if (mode := decision.permission_mode or request.get("permission_mode")) is not None:
        policy.check_mode(str(mode))
    if decision.updated_input is not None:
        if decision.updated_input == request["input"]:
            decision = replace(decision, updated_input=None)
        else:
            policy.check_changed_input(request["tool_name"], options)
    if not decision.remember:
        return decision, []
    suggestions = suggested(request)
    judged = [(each, allowed(each, policy, folders)) for each in suggestions or [whole_tool(request)]]
    kept = tuple(found for _, found in judged if found is not None)
    if len(kept) == len(judged):
        return replace(decision, remembered=kept if suggestions else ()), []
    detail = {
        "request_id": request["request_id"],
        "suggestions": [each for each, found in judged if found is None],
    }
    notice = Notice(type="notice", name="not_remembered", detail=detail)
    return replace(decision, remember=False, remembered=kept), [notice]
