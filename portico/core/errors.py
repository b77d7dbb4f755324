"""The errors that a caller may see.

Every error has a stable ``code`` (snake_case) and a ``detail`` for people. The class is the kind of answer; transports
map only classes to status and close codes.

    PorticoError
    ├── MalformedRequest     breaks the protocol (broken JSON, a bad header)
    ├── InvalidRequest       well formed, but a value is wrong; ``errors`` lists them
    ├── Unauthenticated      no credentials, or wrong ones
    ├── NotAllowed           the operator does not allow this mode, folder or tool
    ├── NotFound             unknown, or another owner's
    │   └── SessionNotFound
    │       └── SessionGone  purged while the caller waited
    ├── Conflict             busy, taken, closed, already answered, not supported
    ├── TooLarge
    ├── Exhausted            a limit is reached; ``retry_after`` seconds
    ├── Unavailable          draining, or a required part does not work
    │   └── AgentUnavailable the agent cannot be started
    ├── AgentFailed          the agent stopped, or no longer answers
    └── StoreFailed
        └── SequenceConflict somebody else has appended to this session
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class PorticoError(Exception):
    """Base of all errors that a caller may see.

    ``code`` is stable, ``detail`` is for people, ``extra`` holds further members of the answer.
    """

    code = "internal_error"

    def __init__(self, detail: str, *, code: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.extra: Mapping[str, Any] = extra


class MalformedRequest(PorticoError):
    code = "malformed"


class InvalidRequest(PorticoError):
    code = "invalid"

    def __init__(self, detail: str, *, code: str | None = None, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail, code=code, **({"errors": list(errors)} if errors else {}))


class Unauthenticated(PorticoError):
    code = "unauthenticated"


class NotAllowed(PorticoError):
    code = "not_allowed"


class NotFound(PorticoError):
    code = "not_found"


class SessionNotFound(NotFound):
    code = "session_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"there is no session {session_id!r}")


class SessionGone(SessionNotFound):
    """The error that the session which the caller was allowed to use was purged since.

    Callers get the same answer as for an unknown session; only the audit tells them apart.
    """


class Conflict(PorticoError):
    code = "conflict"


class TooLarge(PorticoError):
    code = "too_large"


class Exhausted(PorticoError):
    code = "exhausted"

    def __init__(self, detail: str, *, code: str, retry_after: int) -> None:
        super().__init__(detail, code=code)
        self.retry_after = retry_after


class Unavailable(PorticoError):
    code = "unavailable"


class AgentUnavailable(Unavailable):
    code = "agent_unavailable"


class AgentFailed(PorticoError):
    code = "agent_exited"


class StoreFailed(PorticoError):
    code = "store_failed"


class SequenceConflict(StoreFailed):
    code = "sequence_conflict"
