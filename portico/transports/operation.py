"""The inputs and answers of a handler, declared once: for endpoints that read requests, and for the OpenAPI document.

    @operation("renameThing", "Give a thing another name", Answer(200, "The thing.", Thing), codes=("thing_not_found",))
    async def _rename(self, request: Request, body: NewName) -> Response: ...

A parameter ``body`` or ``query`` is a pydantic model, which checks the request's JSON or query string.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel
from starlette.requests import Request

from portico.transports.admission import DEFAULT, Admission, admitting
from portico.transports.body import read_object
from portico.transports.holding import held_of
from portico.transports.models import LastEventId, TurnId
from portico.transports.parse import check_in_turns, parse_query, with_idempotency_key

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])

JSON = "application/json"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request (``type`` is the type that its value is checked against) or of an answer."""

    name: str
    type: Any
    description: str


LAST_EVENT_ID = Header(
    "Last-Event-ID",
    LastEventId,
    "The last event that the client has seen; later ones are sent. Empty: it has seen none.",
)
IDEMPOTENCY_KEY = Header("Idempotency-Key", TurnId, "Another way to give `turn_id`.")
X_PORTICO = Header("X-Portico", str, "Any value. Needed where no token is: it shows that no web page sends this.")
IF_NONE_MATCH = Header("If-None-Match", str, "The `ETag` of the client's copy.")
ETAG = Header("ETag", str, "Changes when the content does.")
LOCATION = Header("Location", str, "The path of the new resource.")
RETRY_AFTER = Header("Retry-After", int, "Seconds after which the client may try again.")
ALLOW = Header("Allow", str, "The methods that the path answers.")
WWW_AUTHENTICATE = Header("WWW-Authenticate", str, "`Bearer`.")


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the successful answers: ``type`` is the type of its body (None: it has no body)."""

    status: int
    description: str
    type: Any = None
    media_type: str = JSON
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """The declaration of a handler. ``codes`` are the problems of this operation alone, ``admission`` its rule."""

    id: str
    summary: str
    description: str
    answers: Sequence[Answer]
    codes: Sequence[str]
    headers: Sequence[Header]
    admission: Admission
    models: Mapping[str, type[BaseModel]] = field(default_factory=dict)

    @property
    def has_body(self) -> bool:
        return "body" in self.models

    async def read(self, request: Request, max_body: int) -> dict[str, BaseModel]:
        """Return the handler's arguments. Raises as `read_object` and `check`."""
        found: dict[str, BaseModel] = {}
        for name, model in self.models.items():
            if name == "body":
                values = await read_object(request, max_body)
            else:
                values = parse_query(request.scope["query_string"])
            if IDEMPOTENCY_KEY in self.headers and "turn_id" in model.model_fields:
                values = with_idempotency_key(request, values)
            found[name] = await check_in_turns(model, values, held_of(request).do)
        return found


def operation(
    operation_id: str,
    summary: str,
    *answers: Answer,
    codes: Sequence[str] = (),
    headers: Sequence[Header] = (),
    admission: Admission = DEFAULT,
) -> Callable[[H], H]:
    """Make a handler an `Operation`; its docstring is the description."""

    def describe(handler: H) -> H:
        hints = get_type_hints(handler)
        models: dict[str, type[BaseModel]] = {name: hints[name] for name in ("query", "body") if name in hints}
        text = " ".join((handler.__doc__ or "").split())
        handler.operation = Operation(  # type: ignore[attr-defined]
            operation_id, summary, text, answers, codes, headers, admission, models
        )
        return admitting(admission)(handler)

    return describe


def operation_of(handler: Callable[..., Any]) -> Operation | None:
    return getattr(handler, "operation", None)
