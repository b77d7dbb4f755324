"""Failures of the CLI, as a stable code and a text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_LOGGED_IN = (
    "The agent has no credentials. Set ANTHROPIC_API_KEY, or CLAUDE_CODE_OAUTH_TOKEN (made by `claude setup-token`); "
    "a login of the operator's own is not the sessions'."
)

_BY_API_TYPE = {  # https://docs.claude.com/en/api/errors
    "invalid_request_error": "invalid_request",
    "authentication_error": "authentication_failed",
    "permission_error": "authentication_failed",
    "billing_error": "billing_error",
    "not_found_error": "model_not_found",
    "request_too_large": "request_too_large",
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "budget_exceeded": "budget_exceeded",  # the gateway's own
}

_BY_CLI_NAME = {  # the member `error` of an assistant line, CLI 2.1.330
    "authentication_failed": "authentication_failed",
    "billing_error": "billing_error",
    "invalid_request": "invalid_request",
    "model_not_found": "model_not_found",
    "rate_limit": "rate_limited",
    "overloaded": "overloaded",
    "max_output_tokens": "max_tokens",
}

_BY_REASON = {"prompt_too_long": "prompt_too_long"}  # the result's `terminal_reason`


def turn_failure(result: Mapping[str, Any], cli_error: str | None) -> tuple[str, str]:
    """Return code and text for a turn that ended in this ``result`` line. ``cli_error`` is from its assistant line."""
    text = result.get("result")
    if not isinstance(text, str) or not text:
        errors = result.get("errors")
        parts = [str(part) for part in errors] if isinstance(errors, list) else []
        text = "; ".join(parts) or "The agent could not finish the turn."
    api_type = result.get("api_error_type")
    if cli_error == "authentication_failed" and result.get("api_error_status") is None:
        return "not_logged_in", f"{NOT_LOGGED_IN} ({text})"
    if isinstance(api_type, str) and api_type in _BY_API_TYPE:
        return _BY_API_TYPE[api_type], text
    reason = str(result.get("terminal_reason"))
    if reason in _BY_REASON:
        return _BY_REASON[reason], text
    if cli_error is not None:
        return _BY_CLI_NAME.get(cli_error, "api_error"), text
    return ("api_error" if reason == "api_error" else "agent_error"), text


def start_failure(status: int | None, stderr: str) -> tuple[str, str]:
    """Return code and text for a CLI that exited with ``status`` before it took a message; the end of ``stderr`` says
    why.
    """
    said = stderr.strip()[-2000:]
    if "No conversation found" in said:
        code = "no_conversation"
    elif "is already in use" in said:
        code = "session_in_use"
    else:
        code = "cli_failed_to_start"
    return code, f"The agent ended at its start, with exit status {status}: {said or 'it said nothing'}"


def exit_text(status: int | None, stderr: str) -> str:
    """Return the text for a CLI that exited later."""
    said = stderr.strip()[-2000:]
    return f"The agent ended, with exit status {status}" + (f": {said}" if said else ".")
