"""The SDK's messages, turned back into the shapes of the CLI's lines, so that `Protocol` understands them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    ContentBlock,
    Message,
    RateLimitEvent,
    ServerToolResultBlock,
    ServerToolUseBlock,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from portico.plugins.claude_code.toolkit import Oversized
from portico_claude_agent_sdk.transport import ASIDE

BLOCKS: dict[type, str] = {
    TextBlock: "text",
    ThinkingBlock: "thinking",
    ToolUseBlock: "tool_use",
    ToolResultBlock: "tool_result",
    ServerToolUseBlock: "server_tool_use",
    ServerToolResultBlock: "advisor_tool_result",
}


def line_of(message: Message) -> dict[str, Any] | Oversized | None:
    """Return the line of a message, as far as the SDK kept it. None for a message whose line has already been seen."""
    said: dict[str, Any]
    match message:
        case StreamEvent():
            said = {"type": "stream_event", "event": message.event}
        case AssistantMessage():
            said = {
                "type": "assistant",
                "message": {"id": message.message_id, "content": _blocks(message.content)},
                "error": message.error,
                "is_api_error_message": message.error is not None,
            }
        case UserMessage():
            content = message.content if isinstance(message.content, str) else _blocks(message.content)
            said = {"type": "user", "message": {"content": content}}
        case SystemMessage(subtype=subtype, data=data):
            line: dict[str, Any] | Oversized = data["line"] if subtype == ASIDE else data
            return line
        case RateLimitEvent():
            return {"type": "rate_limit_event", "rate_limit_info": message.rate_limit_info.raw}
        case _:
            return None
    return {**said, "parent_tool_use_id": message.parent_tool_use_id}


def _blocks(content: Sequence[ContentBlock]) -> list[dict[str, Any]]:
    return [{"type": BLOCKS[type(block)], **vars(block)} for block in content]
