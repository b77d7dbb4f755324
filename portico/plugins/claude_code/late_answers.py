"""The answer to a question of a process that is gone, in words: the next process gets it as a message.

The transcript has the question, and the CLI adds that its outcome is unknown. (A later process takes a
``control_response`` for a duplicate, 2.1.330.)
"""

from __future__ import annotations

from portico.core.abilities import LateAnswer
from portico.core.events import ToolResult, kind_of


def late_mode(late: LateAnswer) -> str | None:
    """Return the permission mode to which the answer takes the agent, if it takes it to one."""
    if late.decision.behavior == "deny" or kind_of(late.request) != "plan":
        return None
    return late.decision.permission_mode or late.request.get("permission_mode")


def late_text(late: LateAnswer) -> str:
    """Return the message to the agent."""
    decision, request = late.decision, late.request
    if kind_of(request) == "plan":
        if decision.behavior == "allow":
            plan = (decision.updated_input or request["input"]).get("plan")
            approved = f"\n\n## Approved Plan:\n{plan}" if plan else ""
            return f"User has approved your plan. You can now start coding.{approved}"
        return f"The user has not approved your plan, so keep planning. {_said(decision.message)}"
    if decision.behavior == "deny":
        return f"The user has not answered your questions. {_said(decision.message)}"
    answers = ", ".join(f'"{question}"="{answer}"' for question, answer in (decision.answers or {}).items())
    return f"The user has answered your questions: {answers}. You can now continue with these answers in mind."


def late_result(late: LateAnswer, text: str) -> ToolResult:
    """Return the end of the tool that has asked."""
    denied = late.decision.behavior == "deny"
    tool_use_id = late.request.get("tool_use_id", "")
    return ToolResult(type="tool_result", tool_use_id=tool_use_id, content=text, is_error=denied)


def _said(message: str | None) -> str:
    return f"They said: {message}" if message else ""
