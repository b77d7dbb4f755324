"""Checks that an event of an agent has the shape that `portico.core.events` gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from portico.core.events import AgentEvent, encode_json


def check_event(event: Mapping[str, Any]) -> None:
    """Raises AssertionError, which says what is wrong with it."""
    faults = list(_faults(event))
    assert not faults, f"{event!r}: {'; '.join(faults)}"


def _faults(event: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(event, dict):
        yield "an event is a dictionary"
        return
    shape = _shapes().get(str(event.get("type")))
    if shape is None:
        yield f"there is no type {event.get('type')!r}; there are: {', '.join(sorted(_shapes()))}"
        return
    for name in sorted(set(event) - set(shape)):
        yield f"{name!r} is no field of it"
    for name, (required, field) in shape.items():
        if name not in event:
            if required:
                yield f"{name!r} is missing"
            continue
        try:
            field.validate_python(event[name], strict=True)
        except ValidationError as error:
            yield f"{name!r}: {error.errors()[0]['msg']}"
    try:
        encode_json(event)
    except (TypeError, ValueError) as error:
        yield f"it cannot be encoded as JSON: {error}"


@cache
def _shapes() -> Mapping[str, Mapping[str, tuple[bool, TypeAdapter[Any]]]]:
    """The fields of each type of event: whether they are required, and what they may hold."""
    shapes = {}
    for event in get_args(AgentEvent):
        hints = get_type_hints(event, include_extras=True)
        (kind,) = get_args(hints["type"])
        shapes[kind] = {name: _field(hint) for name, hint in hints.items()}
    return shapes


def _field(hint: Any) -> tuple[bool, TypeAdapter[Any]]:
    if get_origin(hint) is NotRequired:
        return False, TypeAdapter(get_args(hint)[0])
    return True, TypeAdapter(hint)
