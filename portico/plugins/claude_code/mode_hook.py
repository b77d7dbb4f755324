"""A hook for each use of a tool, which checks the permission mode of that use.

A subagent may have a mode of its own, set by its definition in a project's or a user's settings. The CLI reports that
mode only to hooks (measured on 2.1.330). No setting of a project turns this hook off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from portico.core.agent import AgentOptions
from portico.plugins.claude_code.lines import encode_line

CALLBACK = "permission-mode"
EVENT = "PreToolUse"
MODES = {"manual": "default"}
"""Newer names of permission modes."""


def needs_mode_hook(options: AgentOptions) -> bool:
    """Tell whether anybody but the CLI may define subagents."""
    return bool(options.setting_sources)


def hooks() -> dict[str, Any]:
    """Return the member ``hooks`` of an ``initialize`` request."""
    return {EVENT: [{"matcher": None, "hookCallbackIds": [CALLBACK]}]}


def mode_ruling(asked: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Return the answer to the hook: if the mode is not ``allowed``, ask for permission, as in the mode default.

    If that mode is not allowed either, the use is denied.
    """
    mode = MODES.get(str(asked.get("permission_mode")), asked.get("permission_mode"))
    if mode in allowed:
        return {}
    return {
        "hookSpecificOutput": {
            "hookEventName": EVENT,
            "permissionDecision": "ask" if "default" in allowed else "deny",
            "permissionDecisionReason": f"The permission mode {mode} is not allowed here.",
        }
    }


def reply(cli_id: str, request: Mapping[str, Any], allowed: Collection[str]) -> bytes | None:
    """Return the line that answers a ``control_request`` of the CLI if it is for our hook; else None."""
    if request.get("subtype") != "hook_callback" or request.get("callback_id") != CALLBACK:
        return None
    asked = request.get("input")
    answer = mode_ruling(asked if isinstance(asked, Mapping) else {}, allowed)
    return encode_line(
        {"type": "control_response", "response": {"subtype": "success", "request_id": cli_id, "response": answer}}
    )
