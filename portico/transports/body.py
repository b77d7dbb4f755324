"""Reads the body of a request, within limits of size and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request

from portico.core.errors import TooLarge
from portico.transports.parse import parse_object
from portico.transports.wire import HttpError

GRACE_SECONDS = 30.0
MIN_RATE = 16 * 1024  # bytes a second, on average, once the grace is over


async def read_object(request: Request, max_bytes: int) -> Mapping[str, Any]:
    """The JSON object in the body; an empty body counts as ``{}``.

    Raises `HttpError` 415 for another media type and 408 for a body that comes too slowly, `TooLarge`,
    `MalformedRequest`, and starlette's ClientDisconnect.
    """
    declared = request.headers.get("content-length")
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = await _read(request, max_bytes)
    if not body:
        return {}
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise HttpError(415, "unsupported_media_type", "the body must be application/json")
    if "charset" in parameters.lower() and "utf-8" not in parameters.lower():
        raise HttpError(415, "unsupported_media_type", "JSON is UTF-8")
    if any(coding.lower() != "identity" for coding in request.headers.getlist("content-encoding")):
        raise HttpError(415, "unsupported_media_type", "the body must not be compressed")
    return parse_object(bytes(body))


async def _read(request: Request, max_bytes: int) -> bytearray:
    """The whole body. Each byte that comes buys time, so that a big body may take long, but a slow one may not."""
    body = bytearray()
    start = anyio.current_time()
    more = True
    while more:
        with anyio.move_on_at(start + GRACE_SECONDS + len(body) / MIN_RATE) as waiting:
            message = await request.receive()
        if waiting.cancelled_caught:
            raise HttpError(408, "request_timeout", "the body came too slowly", {"connection": "close"})
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        more = message.get("more_body", False)
    return body


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes} bytes (max_body)")
