"""The parameters that URLs may have, as models that check them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from portico.core.requests import NewTurn
from portico.core.state import State
from portico.transports.content_blocks import NonBlank
from portico.transports.models import KIB, Line, TurnId


class _Parameters(BaseModel):
    """A URL has text only: "1" is a number in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ModelParameters(_Parameters):
    """``GET /models``."""

    driver: Line | None = None


class ListParameters(_Parameters):
    """``GET /sessions``."""

    state: State | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Annotated[str, StringConstraints(max_length=1024)] | None = None


class DeleteParameters(_Parameters):
    """``DELETE /sessions/{id}``."""

    purge: bool = False


class FollowParameters(_Parameters):
    """Whatever sends events as they come, and ``POST /stream/{id}``.

    Without ``subagents`` what these say and do is left out. ``heartbeat`` is in seconds; None: as the server has it.
    Events of more bytes than ``max_event`` are cut.
    """

    subagents: bool = True
    heartbeat: Annotated[int, Field(ge=1, le=60)] | None = None
    max_event: Annotated[int, Field(ge=KIB, le=10**18)] | None = None


class StreamParameters(FollowParameters):
    """``GET /stream/{id}``."""

    query: NonBlank
    turn_id: TurnId | None = None

    def request(self) -> NewTurn:
        return NewTurn(self.query, self.turn_id)


class EventParameters(FollowParameters):
    """``GET /sessions/{id}/events``. ``limit`` is for a page; a live stream has no pages."""

    after: Annotated[int, Field(ge=0, le=10**18)] = 0
    live: bool = True
    limit: Annotated[int, Field(ge=1, le=5000)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> EventParameters:
        if self.live and self.limit is not None:
            raise PydanticCustomError("unfit", "limit needs live=false")
        if not self.live and self.heartbeat is not None:
            raise PydanticCustomError("unfit", "heartbeat goes with a stream, and with live=false there is none")
        return self


class SocketParameters(FollowParameters):
    """``GET /ws/{id}``. Without ``after`` the client gets the events from now on.

    ``turn_id`` is for the first query of the plain form.
    """

    after: Annotated[int, Field(ge=0, le=10**18)] | None = None
    turn_id: TurnId | None = None
