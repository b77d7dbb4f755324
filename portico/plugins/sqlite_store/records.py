"""Session records as text."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from portico.core.agent import AgentOptions
from portico.core.events import encode_json
from portico.core.state import State
from portico.core.store import SessionRecord
from portico.plugins.sqlite_store.sqlite_failures import Damaged

_RECORD = tuple(field.name for field in fields(SessionRecord))
_OPTIONS = tuple(field.name for field in fields(AgentOptions))


def encode_record(record: SessionRecord) -> str:
    values = {name: getattr(record, name) for name in _RECORD}
    values["options"] = {name: getattr(record.options, name) for name in _OPTIONS}
    return encode_json(values).decode()


def decode_record(text: str, last_seq: int) -> SessionRecord:
    """Return the record, with the true end of the history. Fields that only another version knows are left out.

    Raises `Damaged` for a text that `encode_record` did not write.
    """
    try:
        return _decode(text, last_seq)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Damaged("a session's record") from error


def _decode(text: str, last_seq: int) -> SessionRecord:
    values = _known(json.loads(text), _RECORD)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in _known(values["options"], _OPTIONS).items()
    }
    values |= {"options": AgentOptions(**options), "state": State(values["state"]), "last_seq": last_seq}
    return SessionRecord(**values)


def _known(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
