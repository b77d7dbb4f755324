"""The frames that a client sends over a WebSocket in the subprotocol ``portico.v1``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from starlette.types import Scope

from portico.core.errors import MalformedRequest
from portico.core.intake import Intake
from portico.core.json_reader import SLICE_BYTES, JsonReader
from portico.transports.content_blocks import Query
from portico.transports.models import WHOLE, Line, PermissionBody, TurnBody
from portico.transports.parse import close_object, parse_object
from portico.transports.peer import Pieces

SUBPROTOCOL = "portico.v1"
MAX_ID = 256

FrameId = Annotated[str, StringConstraints(max_length=MAX_ID)] | Annotated[int, Field(ge=-(10**18), le=10**18)]
"""A client's own id for a frame; the answer repeats it."""


def subprotocol_of(scope: Scope) -> str | None:
    """Return the subprotocol to use, if the client of the WebSocket has offered it; else None."""
    return SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None


class QueryFrame(TurnBody):
    """Starts a turn, as `TurnBody` does, with the query in ``content``."""

    query: Query = Field(alias="content")


class PermissionFrame(PermissionBody):
    """Answers a permission request."""

    request_id: Line


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class InterruptFrame(_Strict):
    """Stops the running turn."""


class ResumeFrame(_Strict):
    """Goes (back) to the event that follows ``after``, and on from there."""

    after: Annotated[int, Field(ge=0, le=10**18), WHOLE]


class AuthFrame(_Strict):
    """The credentials. It is the first frame of a client that can't send headers."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


FRAMES: Mapping[str, type[BaseModel]] = {
    "query": QueryFrame,
    "interrupt": InterruptFrame,
    "permission": PermissionFrame,
    "resume": ResumeFrame,
    "auth": AuthFrame,
}
"""The members of the frames of each type, beside ``type`` and ``id``."""


@dataclass(frozen=True, slots=True)
class ClientFrame:
    """A client's frame: its ``id`` if it wants an answer, and the members for its ``type``, not checked yet."""

    type: Any
    id: str | int | None
    members: Mapping[str, Any]

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``body`` as the answer to this frame."""
        return dict(body) if self.id is None else {**body, "id": self.id}


_FRAME_ID: TypeAdapter[str | int | None] = TypeAdapter(FrameId | None)


def parse_frame(text: str) -> ClientFrame:
    """Parse a short frame. `read_frame` is for long ones: it lets others run in between. Raises the same errors."""
    return _frame(parse_object(text.encode()))


async def read_frame(message: str | Pieces, intake: Intake) -> ClientFrame:
    """Return the frame in a message. Raises `MalformedRequest` if it is not a JSON object or its ``id`` is not valid,
    and `TooLarge` (``too_many_values``)."""
    if isinstance(message, str):
        reader, pieces = JsonReader(4 * len(message)), _cut(message)
    else:
        reader, pieces = JsonReader(sum(map(len, message))), iter(message)
    for piece in pieces:
        await intake.do(reader.feed(piece))
    return _frame(close_object(reader))


def _cut(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), SLICE_BYTES):
        yield text[start : start + SLICE_BYTES].encode()


def _frame(found: Mapping[str, Any]) -> ClientFrame:
    members = dict(found)
    kind, frame_id = members.pop("type", None), members.pop("id", None)
    try:
        return ClientFrame(kind, _FRAME_ID.validate_python(frame_id, strict=True), members)
    except ValidationError:
        raise MalformedRequest(f"id must be a string of at most {MAX_ID} characters, or a whole number") from None
