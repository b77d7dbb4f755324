"""The encoding of the engine's objects: events as SSE frames, errors as problem documents and close codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from portico.core.errors import (
    Conflict,
    Exhausted,
    InvalidRequest,
    MalformedRequest,
    NotAllowed,
    NotFound,
    PorticoError,
    StoreFailed,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from portico.core.events import Event, encode_json
from portico.transports.answer_bodies import Nack, Problem

PROBLEM_TYPE = "application/problem+json"
# Neither has a blank line behind it, so each becomes a part of the next event: some clients take a blank line for the
# end of an event, whatever came before it, and hand out an empty one.
RETRY = b"retry: 1000\n"
"""The first line of a stream: the milliseconds after which a browser reconnects if it loses the stream."""
HEARTBEAT = b":\n"
"""A comment, which clients ignore."""
DRAINING_SECONDS = 5

STATUS: Mapping[type[PorticoError], int] = {
    MalformedRequest: 400,
    Unauthenticated: 401,
    NotAllowed: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    InvalidRequest: 422,
    Exhausted: 429,
    Unavailable: 503,
    StoreFailed: 503,
    PorticoError: 500,
}


CLOSE_CODES: Mapping[int, int] = {
    400: 4400,
    401: 4401,
    403: 4403,
    404: 4404,
    413: 1009,
    422: 4400,
    429: 4429,
    500: 1011,
    503: 1013,
}
"""The close codes of a WebSocket by status (RFC 6455, 7.4); 1008 for the rest."""
NORMAL, GOING_AWAY, POLICY = 1000, 1001, 1008
REASON_BYTES = 123
"""The longest reason: a close frame has 125 bytes (RFC 6455, 5.5), two of which are its code."""


class HttpError(PorticoError):
    """An error that only HTTP has, such as an unknown path, a wrong method or media type."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, code=code)
        self.status = status
        self.headers = headers or {}


class RequestRefused(HttpError):
    """A request refused at once because its Host or Origin is wrong. A WebSocket is refused at its handshake."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(403, code, detail)


def frames(events: Sequence[Event]) -> bytes:
    """Encode server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    # The JSON of `core.events` contains no line break, so that one `data:` line will do. The id comes after it: some
    # clients take an event for seen as soon as they have its id, even if the connection is lost before its data.
    if events and events[0].type == "gap":  # it comes first, and has no number to resume after
        return b"data: %b\n\n" % events[0].data + frames(events[1:])
    return b"".join([b"data: %b\nid: %d\n\n" % (event.data, event.seq) for event in events])


def page(events: Sequence[Event], next_after: int, has_more: bool) -> bytes:
    """Encode a page of history as a JSON object, around events that are JSON already."""
    joined = b",".join([event.data for event in events])
    more = b"true" if has_more else b"false"
    return b'{"events":[%b],"next_after":%d,"has_more":%b}' % (joined, next_after, more)


def problem(error: PorticoError) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and body of an RFC 9457 problem document."""
    status, headers = status_of(error), {"content-type": PROBLEM_TYPE}
    match error:
        case HttpError():
            headers |= error.headers
        case Unauthenticated():
            headers["www-authenticate"] = "Bearer"
        case Exhausted():
            headers["retry-after"] = str(error.retry_after)
        case Unavailable(code="draining"):
            headers["retry-after"] = str(DRAINING_SECONDS)
    told = Problem(
        type=f"urn:portico:problem:{error.code}",
        title=phrase(status),
        status=status,
        detail=error.detail,
        code=error.code,
    )
    return status, headers, encode_json({**error.extra, **told})


def phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def nack(error: PorticoError) -> dict[str, Any]:
    """Return the frame that tells a WebSocket client why its frame was refused."""
    return {**error.extra, **Nack(type="nack", error=error.detail, code=error.code, status=status_of(error))}


def close_code(error: PorticoError) -> tuple[int, str]:
    """Return the code and reason with which ``error`` closes a WebSocket."""
    code = GOING_AWAY if error.code == "draining" else CLOSE_CODES.get(status_of(error), POLICY)
    return code, f"{error.code}: {error.detail}".encode()[:REASON_BYTES].decode("utf-8", "ignore")


def status_of(error: PorticoError) -> int:
    if isinstance(error, HttpError):
        return error.status
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
