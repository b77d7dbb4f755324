"""A user's messages to the CLI. A line that the CLI does not understand kills it, so everything is checked first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portico.core.encoding import encode_in_turns, is_large
from portico.core.errors import InvalidRequest
from portico.core.events import Content
from portico.plugins.claude_code.lines import encode, encode_line


def user_line(uuid: str, content: Content, *, commands: bool, encoded: Sequence[bytes] | None = None) -> bytes:
    """Return the line that sends ``content`` under a new ``uuid``. Raises as `check_content`.

    With ``commands`` a /command is run, and an @file is read. ``encoded`` is the result of `encoded` for the content.
    """
    check_content(content)
    placed = content if encoded is None else 0
    line: dict[str, Any] = {
        "type": "user",
        "uuid": uuid,
        "message": {"role": "user", "content": placed},
        "parent_tool_use_id": None,
        "session_id": "",
    }
    if not commands:
        line["client_composed"] = True
    made = encode_line(line)
    if encoded is None:
        return made
    before, place, after = made.partition(b'"content":')
    return b"".join([before, place, *encoded, after.removeprefix(b"0")])


async def encoded(content: Content) -> Sequence[bytes] | None:
    """Encode a large ``content`` for a line, in pieces; return None if it is not large. Raises `InvalidRequest`."""
    if not is_large(content):
        return None
    try:
        return await encode_in_turns(content, encode)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"This can't be said in JSON: {error}.", code="invalid_content") from error


def check_content(content: Content) -> None:
    """Check the content. Raises `InvalidRequest` (``invalid_content``) unless it is text, or a list of text, image and
    document blocks.

    https://docs.claude.com/en/api/messages: the shapes of blocks and of their sources.
    """
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise _invalid("a query is text, or a list of content blocks that is not empty", None)
    for index, block in enumerate(content):
        match block:
            case {"type": "text", "text": str()}:
                pass
            case {"type": "image", "source": {"type": "base64", "media_type": str(), "data": str()}}:
                pass
            case {"type": "image", "source": {"type": "url", "url": str()}}:
                pass
            case {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": str()}}:
                pass
            case {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": str()}}:
                pass
            case _:
                raise _invalid("a block is text, an image (base64 or url) or a document (a PDF or text)", index)


def _invalid(message: str, index: int | None) -> InvalidRequest:
    errors: list[dict[str, Any]] = [{"message": message, **({} if index is None else {"index": index})}]
    return InvalidRequest(f"The content is not valid: {message}.", code="invalid_content", errors=errors)
