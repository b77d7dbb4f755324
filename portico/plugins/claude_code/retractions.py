"""The messages that the CLI may still take back. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portico.core.events import Message

MAX_KEPT = 1024
"""Lines that are remembered. The CLI takes back the last few."""


class Retractions:
    """The places of messages in the history, by the uuids that the CLI gives to its lines."""

    def __init__(self) -> None:
        self._said: dict[str, Message] = {}

    def add(self, uuid: Any, message: Message) -> None:
        if isinstance(uuid, str):
            self._said[uuid] = message
            if len(self._said) > MAX_KEPT:
                del self._said[next(iter(self._said))]

    def take_back(self, uuids: Any) -> Iterator[Message]:
        """Yield a message without content for each one that these lines were part of. Unknown uuids mean nothing."""
        first: dict[Any, Message] = {}
        for uuid in uuids if isinstance(uuids, list) else ():
            if isinstance(uuid, str) and (message := self._said.pop(uuid, None)) is not None:
                known = first.setdefault(message.get("message_id"), message)
                if message.get("index", 0) < known.get("index", 0):
                    first[message.get("message_id")] = message
        for message in first.values():
            yield {**message, "content": []}
