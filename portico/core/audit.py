"""The audit: who has changed what, or tried to. What is kept of it, and where, is for others to say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from portico.core.errors import PorticoError, SessionGone, SessionNotFound
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


@contextmanager
def noting(audit: Audit, action: str, principal: Principal, **about: About) -> Iterator[dict[str, About]]:
    """Note that ``principal`` did ``action``, and how that ended; unless ``about`` is cleared.

    A turn that was known already changes nothing, so `Engine.query` clears it. What is asked of a session that does not
    exist is not noted. A caller who is after a session of somebody else's is noted by the engine, as
    ``session.access``. A change of a session that was purged before the change was made is noted, with the outcome
    ``session_not_found``.
    """
    outcome = "abandoned"  # the caller left before it had an answer: it may have happened, or not
    try:
        yield about
        outcome = OK
    except SessionNotFound as error:
        outcome = error.code
        if not isinstance(error, SessionGone):  # there was nothing to change, or a ``session.access`` is noted
            about.clear()
        raise
    except PorticoError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = PorticoError.code
        raise
    finally:
        if about:
            audit.note(action, outcome, principal, None, **about)
