"""The audit: a note of each change, or try, and its caller. Plugins decide which notes are kept, and where."""

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
        """Note that ``principal`` did ``action``; ``outcome`` is `OK`, or the code of the error.

        ``source`` defaults to the principal's own. ``about`` names the objects of the action: ids and paths, never
        content. This returns at once, and never raises.
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
    """Note that ``principal`` did ``action``, and its outcome, unless ``about`` is cleared.

    A turn that was already known changes nothing, so `Engine.query` clears ``about``. Requests for a session that does
    not exist are not noted. The engine notes a caller who tries another owner's session, as ``session.access``. A
    change of a session that was purged before the change was made is noted, with the outcome ``session_not_found``.
    """
    outcome = "abandoned"  # the caller disconnected before the answer: the action may have happened, or not
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
