"""Reading the body of a request, with limits on size, time, and the number of values in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request

from portico.core.errors import TooLarge
from portico.core.json_reader import JsonReader
from portico.transports.holding import held_of
from portico.transports.parse import close_object
from portico.transports.wire import HttpError

GRACE_SECONDS = 30.0
MIN_RATE = 16 * 1024  # bytes a second, on average, once the grace is over


async def read_object(request: Request, max_bytes: int) -> Mapping[str, Any]:
    """Return the JSON object in the body; an empty body counts as ``{}``.

    It is parsed as it arrives, so that a body with too many values is refused at the first one too many. Raises
    `HttpError` 415 for another media type and 408 for a body that arrives too slowly, `TooLarge` (also
    ``too_many_values``), `Exhausted` (``too_many_bodies``), `MalformedRequest`, and starlette's ClientDisconnect.
    """
    held, reader, empty = held_of(request), JsonReader(max_bytes), True
    held.expect(check_length(request, max_bytes))
    async with aclosing(_pieces(request, max_bytes)) as pieces:
        async for piece in pieces:
            if empty:
                _check_headers(request)
                empty = False
            held.grow(len(piece))
            await held.do(reader.feed(piece))
    return {} if empty else close_object(reader)


def check_length(request: Request, max_bytes: int) -> int:
    """Return the length that the request declares for its body, or 0 if it declares none. Raises `TooLarge`."""
    declared = int(request.headers.get("content-length", "0"))
    if declared > max_bytes:
        raise _too_large(max_bytes)
    return declared


def _check_headers(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise HttpError(415, "unsupported_media_type", "the body must be application/json")
    if "charset" in parameters.lower() and "utf-8" not in parameters.lower():
        raise HttpError(415, "unsupported_media_type", "JSON is UTF-8")
    if any(coding.lower() != "identity" for coding in request.headers.getlist("content-encoding")):
        raise HttpError(415, "unsupported_media_type", "the body must not be compressed")


async def _pieces(request: Request, max_bytes: int) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives. Each byte extends the time limit: a big body may take long, a slow one may not."""
    size = 0
    start = anyio.current_time()
    more = True
    while more:
        with anyio.move_on_at(start + GRACE_SECONDS + size / MIN_RATE) as waiting:
            message = await request.receive()
        if waiting.cancelled_caught:
            raise HttpError(408, "request_timeout", "the body came too slowly", {"connection": "close"})
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        if piece := message.get("body", b""):
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            yield piece


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes} bytes")
