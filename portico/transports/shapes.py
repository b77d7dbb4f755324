"""The types of the data on the wire, for the OpenAPI document: events with their `Head`, and both sides' frames."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias, get_args, get_type_hints

from pydantic import BaseModel, Discriminator, Field, create_model
from typing_extensions import TypedDict

from portico.core.events import WRITTEN, Gap, Head
from portico.transports.answer_bodies import Ack, Nack, PlainError
from portico.transports.frames import FRAMES, FrameId
from portico.transports.models import EventId


class WireHead(Head):
    """The members that all events have on the wire.

    ``cut`` is there if the event was cut to the client's ``max_event``: each JSON pointer (RFC 6901) leads to a string,
    list or object of which only a part is left, and the number is its whole size in bytes of UTF-8; for a list or an
    object, of their JSON.
    """

    cut: NotRequired[dict[str, int]]


def _event(body: Any, head: Any = WireHead) -> Any:
    """Return the type of ``body`` after the ``head``, as `portico.core.events.encode_event` writes it."""
    members = get_type_hints(body, include_extras=True)
    members = {**get_type_hints(head, include_extras=True), **members}
    made = TypedDict(_name(*get_args(members["type"])), members)  # type: ignore[misc]
    made.__doc__ = body.__doc__
    return made


def _frame(kind: str, model: type[BaseModel]) -> Any:
    """Return ``model`` with the members that every frame has."""
    members: Any = {"type": (Literal[kind], ...), "id": (FrameId | None, None)}
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **members)


def _name(kind: str) -> str:
    return "".join(word.capitalize() for word in kind.split("_")) + "Event"


if TYPE_CHECKING:
    WireEvent: TypeAlias = dict[str, Any]
    ClientMessage: TypeAlias = dict[str, Any]
else:
    _events = (*(_event(body) for body in WRITTEN), _event(Gap, head=Gap))
    WireEvent = Annotated[reduce(or_, _events), Discriminator("type")]
    _frames = tuple(_frame(kind, model) for kind, model in FRAMES.items())
    ClientMessage = Annotated[reduce(or_, _frames), Discriminator("type")]

ServerMessage: TypeAlias = WireEvent | Ack | Nack
"""The server's messages with the subprotocol ``portico.v1``."""

PlainMessage: TypeAlias = WireEvent | PlainError
"""The server's messages without a subprotocol."""


class ServerSentEvent(TypedDict):
    """``data`` is an `Event` as JSON. ``id`` is its ``seq``; only a gap has none. There is no ``event``."""

    data: Annotated[str, Field(json_schema_extra={"contentMediaType": "application/json"})]
    id: NotRequired[EventId]


class EventPage(TypedDict):
    """One page of events. ``next_after`` is the value of ``after`` for the next page."""

    events: list[WireEvent]
    next_after: int
    has_more: bool
