"""The audit: who has changed what, or tried to. What is kept of it, and where, is for others to say."""

from __future__ import annotations

from typing import Protocol

from portico.core.principal import Principal
from portico.core.source import Source

OK = "ok"
About = str | bool | None


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
