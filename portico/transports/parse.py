"""Parsing of JSON objects, query strings and headers into checked values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from starlette.datastructures import Headers
from starlette.requests import Request

from portico.core.errors import InvalidRequest, MalformedRequest, NotFound
from portico.core.json_reader import JsonReader
from portico.transports.long_texts import Postponed, place_of
from portico.transports.models import EventId

MAX_ERRORS = 20
WORDS = {"extra_forbidden": "there is no such field"}
"""Our words for a mistake, by its type, in place of pydantic's."""
MAX_PARAMETERS = 100
"""The most parameters of a query string."""

M = TypeVar("M", bound=BaseModel)


def parse_object(body: bytes) -> Mapping[str, Any]:
    """Parse a small JSON object. For large ones use `JsonReader`, which lets others run. Raises the same errors."""
    reader = JsonReader(len(body))
    for _ in reader.feed(body):
        pass
    return close_object(reader)


def close_object(reader: JsonReader) -> Mapping[str, Any]:
    """Return the object that ``reader`` has read. Raises `MalformedRequest`, also if it is not an object."""
    value = reader.close()
    if not isinstance(value, dict):
        raise MalformedRequest("the body must be a JSON object")
    return value


def check_parameter_count(query_string: bytes) -> None:
    """Count the parameters without parsing them. Raises `MalformedRequest` for more than `MAX_PARAMETERS`."""
    if query_string.count(b"&") >= MAX_PARAMETERS:
        raise MalformedRequest(f"the query string has more than {MAX_PARAMETERS} parameters")


def parse_query(query_string: bytes) -> Mapping[str, str]:
    """Return the parameters of a URL. Raises `MalformedRequest`, also for a parameter that is given twice."""
    check_parameter_count(query_string)
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise MalformedRequest("the query string is not UTF-8") from None
    values = dict(pairs)
    if len(values) < len(pairs):
        raise MalformedRequest("a parameter is given twice in the query string")
    return values


def parse_event_id(headers: Headers) -> int | None:
    """Return the sequence number in the header ``Last-Event-ID``, None without one. Raises `MalformedRequest`.

    An empty one counts as none: some clients send it before they have seen an event. Beside another one it says
    nothing.
    """
    values = {value.strip(" \t") for value in headers.getlist("last-event-id")} - {""}
    if not values:
        return None
    try:
        (value,) = values
        return int(_EVENT_ID.validate_python(value))
    except ValueError:  # pydantic's, or there are several
        raise MalformedRequest("Last-Event-ID is not an event id of this server") from None


def parse_seq(text: str) -> int:
    """Return the number of an event in a path. Raises `NotFound` (``event_not_found``) for anything else."""
    try:
        return int(_EVENT_ID.validate_python(text))
    except ValidationError:
        raise NotFound("the number of an event has 1 to 18 digits", code="event_not_found") from None


def with_idempotency_key(request: Request, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``values`` with the header ``Idempotency-Key`` as ``turn_id``. Raises `InvalidRequest` if they differ."""
    key = request.headers.get("idempotency-key")
    if key is None or values.get("turn_id") == key:
        return values
    if values.get("turn_id") is not None:
        raise InvalidRequest("turn_id and the header Idempotency-Key differ", code="turn_id_mismatch")
    return {**values, "turn_id": key}


def check(model: type[M], values: Mapping[str, Any], postponed: Postponed | None = None) -> M:
    """Return ``values`` as a ``model``. Raises `InvalidRequest` with ``errors``: a list of ``{loc, msg, type}``.

    Without ``postponed`` a text of many megabytes may take a second.
    """
    try:
        return model.model_validate(values, context=postponed)
    except ValidationError as failure:
        # Neither the input (it may be huge, or secret) nor pydantic's links belong in an answer.
        errors: list[dict[str, Any]] = [
            {"loc": _location(error["loc"]), "msg": WORDS.get(error["type"], error["msg"]), "type": error["type"]}
            for error in failure.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        ]
    raise _invalid(errors)


async def check_in_turns(
    model: type[M], values: Mapping[str, Any], do: Callable[[Iterator[None]], Awaitable[None]]
) -> M:
    """Check like `check`, but run the long checks with ``do`` (see `Intake.do`)."""
    postponed = Postponed()
    checked = check(model, values, postponed)
    for text, steps in postponed.looks:
        try:
            await do(steps)
        except PydanticCustomError as error:
            raise _invalid([{"loc": place_of(text, values), "msg": error.message(), "type": error.type}]) from None
    return checked


def _invalid(errors: list[dict[str, Any]]) -> InvalidRequest:
    where, what = ".".join(map(str, errors[0]["loc"])), errors[0]["msg"]
    return InvalidRequest(f"{where}: {what}" if where else what, errors=errors)


def _location(loc: tuple[int | str, ...]) -> list[int | str]:
    """Return the path of the mistake as the client sees it: without our names of variants, in angle brackets."""
    return [part for part in loc if not (isinstance(part, str) and part.startswith("<"))] or list(loc)


_EVENT_ID = TypeAdapter(EventId)
