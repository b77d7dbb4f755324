"""Failures of the CLI, as a stable code and a text for people who have no terminal of the CLI before them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]

_BY_API_ERROR = {  # the member `api_error` of an assistant line and of the result: the CLI's own words, 2.1.330
    "max_output_tokens": "max_tokens",
    "message_over_context_limit": "prompt_too_long",
    "autocompact_thrashing": "context_window",
    "long_context_credits_required": "billing",
    "model_requires_usage_credits": "billing",
    "usage_limit_reached": "rate_limited",
    "safety_monitor_blocked": "refusal",
    "dlp_request_denied": "refusal",
    "media_removed": "media_refused",
    "pdf_too_large": "media_refused",
    "pdf_password_protected": "media_refused",
    "tool_history_mismatch": "history_broken",
    "connection_failed": "api_unreachable",
    "stream_idle_timeout": "api_unreachable",
    "computer_slept": "api_unreachable",
    "no_response": "api_unreachable",
    "tls_untrusted_ca": "api_unreachable",
    "tls_cert_signature_failure": "api_unreachable",
    "network_edge_blocked": "api_unreachable",
    "gateway_content_type": "api_unreachable",
    "org_disabled_credential": "authentication_failed",
    "api_key_auth_disabled": "authentication_failed",
    "invalid_credential_header": "authentication_failed",
    "provider_credentials": "authentication_failed",
    "claude_code_version_too_old": "cli_too_old",
}

_BY_REASON = {  # the result's `terminal_reason`
    "prompt_too_long": "prompt_too_long",
    "structured_output_retry_exhausted": "no_structured_output",
    "image_error": "media_refused",
}

_BY_CLI_NAME = {  # the member `error` of an assistant line
    "authentication_failed": "authentication_failed",
    "oauth_org_not_allowed": "authentication_failed",
    "account_on_hold": "authentication_failed",
    "cloud_credential_error": "authentication_failed",
    "billing_error": "billing",
    "model_not_found": "model_not_found",
    "rate_limit": "rate_limited",
    "overloaded": "overloaded",
    "max_output_tokens": "max_tokens",
}

_BY_API_TYPE = {  # https://docs.claude.com/en/api/errors
    "invalid_request_error": "invalid_request",
    "authentication_error": "authentication_failed",
    "permission_error": "authentication_failed",
    "billing_error": "billing",
    "not_found_error": "model_not_found",
    "request_too_large": "request_too_large",
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "budget_exceeded": "budget_exceeded",  # the gateway's own
}

TEXTS = {
    "not_logged_in": (
        "The agent has no credentials. Set ANTHROPIC_API_KEY, or CLAUDE_CODE_OAUTH_TOKEN (made by `claude setup-token`"
        "); a login of the operator's own is not the sessions'."
    ),
    "authentication_failed": "The model API refuses the server's key. Only the server's operator can mend that.",
    "billing": "The model API refuses for reasons of payment. Only the server's operator can mend that.",
    "prompt_too_long": "The conversation is longer than the model can read. Send less, or open a new session.",
    "context_window": "The model has come to the end of its context. Send less at once, or open a new session.",
    "max_tokens": "The reply was longer than `max_tokens` allows. Ask for a shorter one, or for several parts.",
    "request_too_large": "The conversation and its files are larger than the model API takes. Open a new session.",
    "media_refused": "The model API can't read an image or a document of the conversation. Send it in another form.",
    "history_broken": "The model API no longer takes the conversation as it is. Open a new session.",
    "refusal": "The model declines to answer this. Ask for something else, or open a new session.",
    "model_not_found": "The model does not exist, or the server's key may not use it. Choose another `model`.",
    "rate_limited": "The model API has had too many requests. Try again later.",
    "overloaded": "The model API is overloaded. Try again in a moment.",
    "api_unreachable": "The connection to the model API was lost, or could not be made. Try again in a moment.",
    "cli_too_old": "The server's `claude` is too old for this model. Only the server's operator can mend that.",
}
"""Texts that replace the CLI's, which tell its user to press keys or to run commands."""

_LEADS = {"api_error": "The model API failed: ", "invalid_request": "The model API refuses the request: "}

_MODEL = re.compile(r"selected model \(([^)]+)\)")
_PREFIX = re.compile(r"^(?:Failed to authenticate\. )?API Error: (?:\d{3} )?")
_HINT = re.compile(r" (?:This is a server-side issue|If it persists).*", re.DOTALL)


def turn_failure(result: Json, failure: Json | None, refusal: Json | None = None) -> tuple[str, str]:
    """Return code and text for a turn that ended in this ``result`` line.

    ``failure`` is its ``assistant`` line, ``refusal`` the line that said why the model declined, if there were such.
    """
    code = _code(result, failure or {})
    said = _said(result)
    text = TEXTS.get(code)
    if text is None:
        return code, _LEADS.get(code, "") + said
    if code == "refusal" and refusal is not None:
        why = [str(refusal[name]) for name in ("api_refusal_category", "api_refusal_explanation") if refusal.get(name)]
        text += f" ({': '.join(why)})" if why else ""
    elif code == "model_not_found" and (named := _MODEL.search(said)):
        text = text.replace("The model", f"The model {named[1]}", 1)
    return code, text


def _code(result: Json, failure: Json) -> str:
    cli_error, api_type = str(failure.get("error")), str(result.get("api_error_type"))
    api_error = str(failure.get("api_error") or result.get("api_error"))
    reason = str(result.get("terminal_reason"))
    if cli_error == "authentication_failed" and result.get("api_error_status") is None:
        return "not_logged_in"
    if result.get("stop_reason") == "refusal":
        return "refusal"
    if api_error == "max_output_tokens" and _cut(failure) == "context_window":
        return "context_window"
    if api_type in ("budget_exceeded", "request_too_large"):
        return _BY_API_TYPE[api_type]
    ways = ((_BY_API_ERROR, api_error), (_BY_REASON, reason), (_BY_CLI_NAME, cli_error), (_BY_API_TYPE, api_type))
    for table, name in ways:
        if name in table:
            return table[name]
    return "api_error" if reason == "api_error" or failure else "agent_error"


def _cut(failure: Json) -> Any:
    parameters = failure.get("api_error_params")
    return parameters.get("cut") if isinstance(parameters, Mapping) else None


def _said(result: Json) -> str:
    """Return the CLI's own text, without what is meant for the one at its terminal."""
    text = result.get("result")
    if not isinstance(text, str) or not text:
        errors = result.get("errors")
        parts = [str(part) for part in errors] if isinstance(errors, list) else []
        text = "; ".join(parts) or "The agent could not finish the turn."
    return _HINT.sub("", _PREFIX.sub("", text))


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
