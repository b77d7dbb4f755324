"""From text to checked values: JSON objects, query strings, headers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request

from portico.core.errors import InvalidRequest, MalformedRequest
from portico.transports.models import EventId

MAX_MEMBERS = 1000
"""Of one JSON object: each unknown one costs an error message."""
MAX_ERRORS = 20
MAX_DIGITS = 1000
"""Of a whole number; Python refuses more than 4,300, in words of its own."""

M = TypeVar("M", bound=BaseModel)


def parse_object(body: bytes) -> Mapping[str, Any]:
    """A JSON object (RFC 8259, and nothing that only Python takes for JSON). Raises `MalformedRequest`."""
    try:
        value = _DECODER.decode(body.decode())
    except UnicodeDecodeError:
        raise MalformedRequest("the body is not UTF-8") from None
    except RecursionError:
        raise MalformedRequest("the JSON is nested too deep") from None
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedRequest("the body must be a JSON object")
    return value


def parse_query(query_string: bytes) -> Mapping[str, str]:
    """The parameters of a URL. Raises `MalformedRequest`, also for one that is given twice."""
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise MalformedRequest("the query string is not UTF-8, or has too many parameters") from None
    values = dict(pairs)
    if len(values) < len(pairs):
        raise MalformedRequest("a parameter stands twice in the query string")
    return values


def parse_event_id(header: str | None) -> int | None:
    """The sequence number in a ``Last-Event-ID`` header. Raises `MalformedRequest`."""
    if header is None:
        return None
    try:
        return int(_EVENT_ID.validate_python(header))
    except ValidationError:
        raise MalformedRequest("Last-Event-ID is none that this server has given") from None


def with_idempotency_key(request: Request, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """``values``, with the header ``Idempotency-Key`` as their ``turn_id``. Raises `InvalidRequest` if they differ."""
    key = request.headers.get("idempotency-key")
    if key is None or values.get("turn_id") == key:
        return values
    if values.get("turn_id") is not None:
        raise InvalidRequest("turn_id and the header Idempotency-Key differ", code="turn_id_mismatch")
    return {**values, "turn_id": key}


def check(model: type[M], values: Mapping[str, Any]) -> M:
    """``values`` as a ``model``. Raises `InvalidRequest` with ``errors``: a list of ``{loc, msg, type}``."""
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        # Neither the input (it may be huge, or a secret) nor pydantic's links belong in an answer.
        errors: list[dict[str, Any]] = [
            {"loc": _location(error["loc"]), "msg": error["msg"], "type": error["type"]}
            for error in failure.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        ]
    where, what = ".".join(map(str, errors[0]["loc"])), errors[0]["msg"]
    raise InvalidRequest(f"{where}: {what}" if where else what, errors=errors)


def _location(loc: tuple[int | str, ...]) -> list[int | str]:
    """Where the client sees the mistake: without the names of the variants in angle brackets, which are ours."""
    return [part for part in loc if not (isinstance(part, str) and part.startswith("<"))] or list(loc)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name stands twice in an object")
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"an object has more than {MAX_MEMBERS} members")
    return members


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_EVENT_ID = TypeAdapter(EventId)
_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_float=_number, parse_int=_whole, parse_constant=_refuse)
