"""What a client sends over a WebSocket in the subprotocol ``portico.v1``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.types import Scope

from portico.core.errors import MalformedRequest
from portico.transports.models import Line, PermissionBody, Query, TurnBody
from portico.transports.parse import parse_object

SUBPROTOCOL = "portico.v1"
MAX_ID = 256


def subprotocol_of(scope: Scope) -> str | None:
    """What is spoken on a WebSocket, of what its client has offered."""
    return SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None


class QueryFrame(TurnBody):
    """``{type: "query", content, ...}``: a turn as `TurnBody` has it, with the query in ``content``."""

    query: Query = Field(alias="content")


class PermissionFrame(PermissionBody):
    """``{type: "permission", request_id, behavior, ...}``."""

    request_id: Line


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class InterruptFrame(_Strict):
    """``{type: "interrupt"}``."""


class ResumeFrame(_Strict):
    """``{type: "resume", after}``."""

    after: Annotated[int, Field(ge=0, le=10**18)]


class AuthFrame(_Strict):
    """``{type: "auth", token}``."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


@dataclass(frozen=True, slots=True)
class ClientFrame:
    """A client's frame: ``id`` if it wants an answer, and the members that go with its ``type``, not checked yet."""

    type: Any
    id: str | int | None
    members: Mapping[str, Any]

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """``body`` as the answer to this frame."""
        return dict(body) if self.id is None else {**body, "id": self.id}


def parse_frame(text: str) -> ClientFrame:
    """Raises `MalformedRequest` for what is not a JSON object, or has an ``id`` that can't be one."""
    members = dict(parse_object(text.encode()))
    kind, frame_id = members.pop("type", None), members.pop("id", None)
    if isinstance(frame_id, bool) or not isinstance(frame_id, str | int | None) or len(str(frame_id)) > MAX_ID:
        raise MalformedRequest(f"id must be a string of at most {MAX_ID} characters, or a whole number")
    return ClientFrame(kind, frame_id, members)
