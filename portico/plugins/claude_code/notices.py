"""Lines of the CLI that clients should know of, as notices. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portico.core.events import Notice

Json = dict[str, Any]

RETRY = ("attempt", "max_retries", "retry_delay_ms", "error_status", "error")

COMPACTION = ("trigger", "pre_tokens", "post_tokens", "duration_ms")

BROKEN = frozenset({"failed", "needs-auth"})
"""The states of an MCP server whose tools the agent does not have."""

UNFINISHED = frozenset({"connection_failed", "stream_idle_timeout", "computer_slept"})
"""The CLI's names for a reply that broke off."""

LIMIT_HIT = "Output token limit hit"
CUT_OFF = "Your response above was cut off mid-stream"
"""The begin of the CLI's note to the model after a reply that broke off (2.1.330)."""


class Notices:
    """The notices of one CLI process: a state is told once, when it begins."""

    def __init__(self) -> None:
        self._compacting = False
        self._broken: dict[str, str] = {}  # MCP servers that were told of, with their status

    def of(self, line: Json) -> Iterator[Notice]:
        """Yield the notices for a line that is neither speech nor a result nor a control message."""
        match line.get("subtype", line.get("type")):
            case "init":
                yield from self._servers(line.get("mcp_servers"))
            case "status":
                yield from self._compaction(line)
            case "api_retry":
                yield _notice("api_retry", _picked(line, RETRY))
            case "compact_boundary":
                metadata = line.get("compact_metadata")
                yield _notice("compacted", _picked(metadata if isinstance(metadata, dict) else {}, COMPACTION))
            case "informational":
                yield _notice("informational", line.get("content"))
            case "rate_limit_event":
                yield _notice("rate_limit", line.get("rate_limit_info"))
            case "conversation_reset":
                yield _notice("cleared", {"reason": line.get("trigger")})
            case "model_refusal_fallback":
                yield _notice("refusal_fallback", {**_switch(line), **_refusal(line), "scope": line.get("scope")})
            case "model_fallback" | "model_consent_fallback":
                yield _notice("model_fallback", {**_switch(line), "reason": line.get("trigger", line.get("choice"))})

    def _servers(self, servers: Any) -> Iterator[Notice]:
        for server in servers if isinstance(servers, list) else ():
            if not isinstance(server, dict):
                continue
            name, status = str(server.get("name")), str(server.get("status"))
            if status not in BROKEN:
                self._broken.pop(name, None)
            elif self._broken.get(name) != status:
                self._broken[name] = status
                yield _notice("mcp_server_failed", {"server": name, "status": status})

    def _compaction(self, line: Json) -> Iterator[Notice]:
        if line.get("status") == "compacting":
            if not self._compacting:
                self._compacting = True
                yield _notice("compacting", "The agent sums its context up.")
        elif "compact_result" in line:
            self._compacting = False
            if line["compact_result"] != "success":
                yield _notice("compact_failed", str(line.get("compact_error") or "The context could not be summed up."))


def aside(line: Json, content: Any) -> Iterator[Notice]:
    """Yield the notice for a note that the CLI has written to the model about its reply."""
    if isinstance(refused := line.get("refused_message_id"), str):
        yield _notice("refused", {"message_id": refused})
    elif isinstance(line.get("retracted_message_uuids"), list):
        yield _notice("reply_discarded", {"reason": "malformed_tool_use"})
    elif _text(content).startswith(CUT_OFF):
        yield _notice("reply_incomplete", {"reason": "connection_failed"})


def is_cut(content: Any) -> bool:
    """Tell whether a note of the CLI to the model says that its reply reached the limit of tokens."""
    return _text(content).startswith(LIMIT_HIT)


def error_notice(line: Json) -> Notice:
    """Return the notice for an API error after which the turn went on, given its ``assistant`` line."""
    kind = line.get("api_error")
    if kind == "media_removed":
        parameters = line.get("api_error_params")
        picked = _picked(parameters if isinstance(parameters, dict) else {}, ("media", "media_reason"))
        return _notice("media_removed", {name.removeprefix("media_"): value for name, value in picked.items()})
    if kind in UNFINISHED:
        return _notice("reply_incomplete", {"reason": kind})
    return _notice("api_error", {"error": str(kind or line.get("error"))})


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = (block.get("text") for block in content if isinstance(block, dict)) if isinstance(content, list) else ()
    return "".join(part for part in parts if isinstance(part, str))


def _switch(line: Json) -> Json:
    return {"model": line.get("original_model"), "fallback_model": line.get("fallback_model")}


def _refusal(line: Json) -> Json:
    return {"category": line.get("api_refusal_category"), "explanation": line.get("api_refusal_explanation")}


def _picked(members: Json, names: tuple[str, ...]) -> Json:
    return {name: members[name] for name in names if name in members}


def _notice(name: str, detail: Any) -> Notice:
    return Notice(type="notice", name=name, detail=detail)
