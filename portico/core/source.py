"""The origin of a caller, as far as its transport knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of a caller. ``transport`` is the transport's name; ``address`` is an IP address.

    On a network that tells them, ``service`` is the service dialled and ``caller`` the name that the other end gives
    itself, which may be made up.
    """

    transport: str
    address: str | None = None
    service: str | None = None
    caller: str | None = None
