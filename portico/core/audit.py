"""The audit: who has changed what, or tried to. What is kept of it, and where, is for others to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from portico.core.principal import Principal

OK = "ok"
About = str | bool | None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a caller is, as far as its transport knows.

    ``transport`` is what it speaks; ``address`` an IP address; ``service`` and ``caller`` what was dialled on a network
    that tells, and the name that the other end gives itself there, which may be made up.
    """

    transport: str
    address: str | None = None
    service: str | None = None
    caller: str | None = None


class Audit(Protocol):
    def note(
        self,
        action: str,
        outcome: str,
        principal: Principal | None = None,
        source: Source | None = None,
        **about: About,
    ) -> None:
        """Take down that ``principal`` did ``action``; ``outcome`` is `OK`, or the code of what it met with.

        ``source`` is the principal's own if it is not given. ``about`` says what it was done to: ids and paths, never
        content. Returns at once, and never raises.
        """


class NoAudit:
    def note(
        self,
        action: str,
        outcome: str,
        principal: Principal | None = None,
        source: Source | None = None,
        **about: About,
    ) -> None: ...
