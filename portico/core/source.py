"""Where a caller is, as far as its transport knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """``transport`` is the protocol spoken; ``address`` an IP address; ``service`` and ``caller`` what was dialled on a
    network that tells, and the name that the other end gives itself there, which may be made up.
    """

    transport: str
    address: str | None = None
    service: str | None = None
    caller: str | None = None
